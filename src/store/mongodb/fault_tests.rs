use mongodb::bson::{deserialize_from_document, doc};
use mongodb::error::{CommandError, WriteError};

use super::*;

const MESSAGE: &str = "E11000 duplicate key error index: email_1 dup key: { email: \"ann@example.com\" }";

#[test]
fn what_a_server_says_about_an_address_is_not_repeated() {
    let command = doc! { "code": 11000, "codeName": "DuplicateKey", "errmsg": MESSAGE };
    let command: CommandError = deserialize_from_document(command).unwrap();
    let write = doc! { "code": 11000, "errmsg": MESSAGE, "errInfo": { "email": "ann@example.com" } };
    let write: WriteError = deserialize_from_document(write).unwrap();
    for (kind, says) in [
        (ErrorKind::Command(command), "command refused: DuplicateKey (code 11000)"),
        (ErrorKind::Write(WriteFailure::WriteError(write)), "write refused: code 11000"),
    ] {
        let error = Error::from(kind);
        assert_eq!(describe(&error), says);
        assert!(is_duplicate(&error) && !is_refused_access(&error));
    }
}

#[test]
fn a_refused_user_needs_an_operator() {
    let refused = doc! { "code": 13, "codeName": "Unauthorized", "errmsg": MESSAGE };
    let refused: CommandError = deserialize_from_document(refused).unwrap();
    assert!(is_refused_access(&ErrorKind::Command(refused).into()));
}
