use super::*;

fn parse(written: &[&str]) -> Result<Methods, String> {
    Methods::parse(&written.iter().map(ToString::to_string).collect::<Vec<_>>())
}

#[test]
fn refusals_say_what_to_write() {
    let cases: [(&[&str], &str); 7] = [
        (&[], "name a method"),
        (&["get"], "write \"GET\""),
        (&["GET", "Post"], "write \"POST\""),
        (&["CONNECT"], "leave it out"),
        (&["trace"], "leave it out"),
        (&["GET,POST"], "not a method"),
        (&["*"], "leave `methods` out"),
    ];
    for (written, hint) in cases {
        let error = parse(written).unwrap_err();
        assert!(error.contains(hint), "{written:?}: {error}");
    }
    for bad in ["", " ", "GET ", "G\tT", "GÉT", "G\0", "A/B", "A:B", "(A)"] {
        assert!(parse(&[bad]).is_err(), "{bad:?}");
    }
}

#[test]
fn head_goes_with_get() {
    let get = parse(&["GET", "GET"]).unwrap();
    assert!(get.contains("HEAD") && !get.contains("POST") && !get.contains("get"));
    assert_eq!(get.iter().collect::<Vec<_>>(), ["GET", "HEAD"]);
    assert!(get.intersects(&parse(&["HEAD"]).unwrap()));
    assert!(!parse(&["HEAD"]).unwrap().contains("GET"));
    assert!(!get.intersects(&parse(&["POST"]).unwrap()));
    assert!(get.intersects(&Methods::any()));
}

#[test]
fn any_method_is_neither_a_tunnel_nor_a_spelling_trick() {
    let any = Methods::any();
    for yes in ["GET", "HEAD", "PROPFIND", "M-SEARCH"] {
        assert!(any.contains(yes), "{yes}");
    }
    for no in ["CONNECT", "TRACE", "get", "Post", "tRACE"] {
        assert!(!any.contains(no), "{no}");
    }
}
