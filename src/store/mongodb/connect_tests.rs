use super::*;

fn options(uri: &str) -> ClientOptions {
    let parse = async { ClientOptions::parse(uri).await.unwrap() };
    let mut options = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(parse);
    bound(&mut options, Duration::from_millis(800));
    options
}

#[test]
fn a_connection_string_weakens_nothing() {
    for uri in [
        "mongodb://a/",
        "mongodb://a/?w=0&readConcernLevel=local&readPreference=secondaryPreferred&wTimeoutMS=0",
        "mongodb://a/?w=1&journal=false&serverSelectionTimeoutMS=60000&connectTimeoutMS=0&maxPoolSize=100000",
    ] {
        let options = options(uri);
        let limit = Duration::from_millis(600);
        let mut majority = WriteConcern::majority();
        majority.w_timeout = Some(limit);
        assert_eq!(options.write_concern, Some(majority), "{uri}");
        assert_eq!(options.read_concern, Some(ReadConcern::majority()), "{uri}");
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        assert_eq!(options.selection_criteria, Some(primary), "{uri}");
        assert_eq!(options.server_selection_timeout, Some(limit), "{uri}");
        assert_eq!(options.connect_timeout, Some(limit), "{uri}");
        assert!((1..=MOST_CONNECTIONS).contains(&options.max_pool_size.unwrap()), "{uri}");
    }
}

#[test]
fn a_connection_string_may_ask_for_more() {
    let options = options(
        "mongodb://a/?journal=true&connectTimeoutMS=100&maxPoolSize=7&heartbeatFrequencyMS=900&appName=x",
    );
    assert_eq!(options.write_concern.unwrap().journal, Some(true));
    assert_eq!(options.connect_timeout, Some(Duration::from_millis(100)));
    assert_eq!(options.heartbeat_freq, Some(Duration::from_millis(900)));
    assert_eq!((options.max_pool_size, options.app_name.as_deref()), (Some(7), Some("x")));
    assert_eq!(address(&Secret::new("mongodb://a/?maxPoolSize=7")).unwrap().connections, 7);
    assert!(address(&Secret::new("mongodb+srv://a.example.com/")).unwrap().in_dns);
}

#[test]
fn a_refused_connection_string_is_explained_without_its_secrets() {
    for (uri, says) in [
        ("", "no scheme"),
        ("http://ursula:hunter2@a/", "scheme"),
        ("mongodb://ursula:hunter2/x@a/", "user name, password"),
        ("mongodb://ursula:hunter2%zz@a/", "user name, password"),
        ("mongodb://ursula:hunter2@a:port/", "port"),
        ("mongodb://ursula:hunter2@a/?tlsCAFle=x", "tlscafle is an invalid option"),
        ("mongodb://ursula:hunter2@a/?w=1&maxPoolSize=hunter", "maxpoolsize"),
        ("mongodb://ursula:hunter2@a/?tlsCertificateKeyFilePassword=hunter2&x=1", "x is an invalid option"),
        ("mongodb://ursula:x@a/?authMechanismProperties=A:hunter2@b&authMechanism=NONE", ""),
        ("mongodb+srv://ursula:hunter2@a,b/", "exactly one host"),
        ("mongodb+srv://ursula:hunter2@a:1/", "port"),
    ] {
        let Err(refused) = address(&Secret::new(uri)) else { panic!("{uri} was taken") };
        let text = refused.to_string();
        assert!(text.contains(says), "{uri}: {text}");
        assert!(!text.contains("hunter2") && !text.contains("ursula"), "{uri}: {text}");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_known_at_once() {
    let uri = Secret::new("mongodb://ursula:hunter2@127.0.0.1:1/?tls=true&tlsCAFile=/missing/ca.pem");
    let opened = client(&uri, Duration::from_secs(1), Arc::default()).await;
    let refused = unusable(&uri, &opened.expect_err("opened")).to_string();
    assert!(refused.contains("No such file") && !refused.contains("hunter2"), "{refused}");
}
