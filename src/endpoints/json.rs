//! Request bodies of the endpoints: strict JSON, refused with a clear reason that repeats no value of theirs.

use http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::Request;
use crate::fault::Fault;

/// The body as `T`.
///
/// Asking for `application/json` also keeps HTML forms of other sites out: they cannot send that type
/// without the browser asking first.
///
/// # Errors
/// 415 for another content type, 400 for anything that is not the one JSON object expected.
pub fn body<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Fault> {
    if !is_json(request) {
        let detail = "Send the body as JSON with Content-Type: application/json.";
        return Err(Fault::new(415, "unsupported_media_type", detail));
    }
    // serde would take an array too, field by field.
    if request.body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Fault::bad_request("invalid_json", "The body is not one JSON object."));
    }
    serde_json::from_slice(&request.body).map_err(|e| explain(&e))
}

fn is_json(request: &Request<'_>) -> bool {
    let mut values = request.headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn explain(e: &serde_json::Error) -> Fault {
    let place = format!("line {}, column {}", e.line(), e.column());
    if e.classify() != Category::Data {
        return Fault::bad_request("invalid_json", format!("The body is not valid JSON ({place})."));
    }
    // These name a field of ours. serde's other messages quote the client, and what it put there by mistake may be
    // a password.
    let text = e.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    let problem = if text.starts_with("missing field") || text.starts_with("duplicate field") {
        text.to_owned()
    } else if text.starts_with("unknown field") {
        let known = text.rsplit_once(", expected ").map_or("others", |(_, known)| known);
        format!("unknown field, expected {known}")
    } else {
        "a value has the wrong type".to_owned()
    };
    Fault::invalid_field(format!("The body is not as documented: {problem} ({place})."))
}
