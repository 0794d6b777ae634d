use mongodb::bson::raw::RawDocumentBuf;
use mongodb::bson::{Binary, Timestamp as Internal};
use proptest::prelude::*;

use super::*;

const ID: &str = "665f1c2e9b1d8e0012345678";

fn form(id: IdType) -> Form {
    Form { id, fields: UserFields::default() }
}

fn decode(document: Document) -> Result<User, Unusable> {
    form(IdType::String).decode(&RawDocumentBuf::try_from(&document).unwrap())
}

fn with(field: &str, value: impl Into<Bson>) -> Result<User, Unusable> {
    let mut document = doc! { "_id": "u1", "email": "ann@example.com" };
    document.insert(field, value.into());
    decode(document)
}

#[test]
fn the_least_there_can_be_is_an_account_without_a_password() {
    let user = decode(doc! { "_id": "u1", "email": " Ann@Example.com" }).unwrap();
    assert_eq!(user.email.as_str(), "ann@example.com");
    assert_eq!((user.name, user.roles, user.scopes), (None, vec![], vec![]));
    assert_eq!((user.disabled, user.created_at, user.sessions_cut), (false, Timestamp(0), None));
    assert!(crate::passwords::PasswordHash::parse(&user.password_hash).is_err(), "nothing matches it");
}

#[test]
fn nothing_odd_makes_an_account_worth_more() {
    let odd = [
        Bson::Null,
        Bson::Undefined,
        Bson::Double(f64::NAN),
        Bson::Int64(1),
        Bson::Document(doc! { "$ne": "" }),
        Bson::Array(vec![Bson::Array(vec!["admin".into()]), Bson::Document(doc! { "a": "admin" })]),
        Bson::Binary(Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1] }),
        Bson::Timestamp(Internal { time: 1, increment: 1 }),
        Bson::ObjectId(ObjectId::new()),
        Bson::MinKey,
    ];
    for value in odd {
        assert!(with("name", value.clone()).unwrap().name.is_none(), "{value}");
        assert!(with("roles", value.clone()).unwrap().roles.is_empty(), "{value}");
        assert!(with("scopes", value.clone()).unwrap().scopes.is_empty(), "{value}");
        assert!(with("password", value.clone()).unwrap().password_hash.is_empty(), "{value}");
        assert!(with("created_at", value.clone()).unwrap().created_at == Timestamp(0), "{value}");
        assert!(matches!(with("email", value.clone()), Err(Unusable::Email)), "{value}");
        assert!(matches!(with("_id", value.clone()), Err(Unusable::Id)), "{value}");
        let open = matches!(value, Bson::Null | Bson::Undefined);
        assert_eq!(with("disabled", value.clone()).unwrap().disabled, !open, "{value}");
        if value != Bson::Null {
            assert!(matches!(with(CUT_AT, value.clone()), Err(Unusable::Cut)), "{value}");
            assert!(matches!(with(CUT_KEEP, value.clone()), Err(Unusable::Cut)), "{value}");
        }
    }
    for id in ["", " ", "a b", "ü", "a\n", &"a".repeat(65)] {
        assert!(matches!(with("_id", id), Err(Unusable::Id)), "{id}");
    }
    assert!(matches!(with(CUT_KEEP, "no session"), Err(Unusable::Cut)));
}

#[test]
fn what_an_application_wrote_is_understood() {
    assert_eq!(with("roles", "admin").unwrap().roles, ["admin"]);
    assert!(with("roles", "").unwrap().roles.is_empty());
    let mixed = vec![Bson::from("a"), Bson::Int32(1), Bson::Null, Bson::from("b")];
    assert_eq!(with("roles", mixed).unwrap().roles, ["a", "b"]);
    for (value, disabled) in [
        (Bson::Boolean(false), false),
        (Bson::Int32(0), false),
        (Bson::Boolean(true), true),
        (Bson::Int32(1), true),
        ("false".into(), true),
        (DateTime::from_millis(5).into(), true),
    ] {
        assert_eq!(with("disabled", value.clone()).unwrap().disabled, disabled, "{value}");
    }
}

#[test]
fn the_time_of_an_account_without_one_is_that_of_its_object_id() {
    let form = form(IdType::ObjectId);
    let id = ObjectId::parse_str(ID).unwrap();
    let document = doc! { "_id": id, "email": "ann@example.com" };
    let user = form.decode(&RawDocumentBuf::try_from(&document).unwrap()).unwrap();
    assert_eq!((user.id.as_str(), user.created_at), (ID, Timestamp(0x665f_1c2e * 1000)));
}

#[test]
fn an_object_id_has_one_spelling() {
    let form = form(IdType::ObjectId);
    assert!(form.id(ID).is_some());
    for other in ["", "u1", &ID.to_uppercase(), &ID[1..], &format!("{ID}0"), &format!(" {}", &ID[1..])] {
        assert!(form.id(other).is_none(), "{other}");
    }
}

#[test]
fn a_change_is_typed_and_names_what_it_changes_only() {
    let form = form(IdType::String);
    assert!(form.change(UserChange::default()).is_empty());
    let keep = Uuid::now_v7();
    let change = UserChange {
        name: Some(None),
        roles: Some(vec!["$admin".into()]),
        password_hash: Some("{\"$ne\": 1}".into()),
        if_password_hash: Some("old".into()),
        sessions_cut: Some(SessionsCut { at: Timestamp(7), keep: Some(keep) }),
        ..UserChange::default()
    };
    let expected = doc! {
        "$set": { "roles": ["$admin"], "password": "{\"$ne\": 1}", CUT_KEEP: keep.to_string() },
        "$unset": { "name": "" },
        "$max": { CUT_AT: DateTime::from_millis(7) },
    };
    assert_eq!(form.change(change), expected);
}

#[test]
fn the_decoy_is_decoded_like_a_user() {
    for id in [IdType::String, IdType::ObjectId] {
        let form = form(id);
        let decoy = super::super::decoy(&form).unwrap();
        assert!(form.decode(&decoy).is_ok());
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        id in "[!-~]{1,64}", name in any::<Option<String>>(), hash in any::<String>(), disabled in any::<bool>(),
        roles in any::<Vec<String>>(), scopes in any::<Vec<String>>(), at in any::<i64>(), cut in any::<Option<i64>>(),
        keep in any::<Option<u128>>(),
    ) {
        let user = User {
            id, name, roles, scopes, disabled,
            email: Email::parse("ann@example.com").unwrap(),
            password_hash: hash,
            created_at: Timestamp(at),
            sessions_cut: cut.map(|cut| SessionsCut { at: Timestamp(cut), keep: keep.map(Uuid::from_u128) }),
        };
        let document = form(IdType::String).encode(&user).unwrap();
        prop_assert!(decode(document).unwrap() == user);
    }
}
