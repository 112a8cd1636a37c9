//! What Frappe throws, and how that looks in an answer; it doesn't know why.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// An exception on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thrown {
    pub(super) class: &'static str,
    /// `http_status_code` in `frappe/exceptions.py`.
    pub(super) status: u16,
    pub(super) message: String,
}

impl Thrown {
    /// `frappe.throw`.
    pub(super) fn validation(message: impl Into<String>) -> Thrown {
        Thrown { class: "ValidationError", status: 417, message: message.into() }
    }

    pub(super) fn permission(doctype: &str) -> Thrown {
        let message = format!("Insufficient Permission for {doctype}");
        Thrown { class: "PermissionError", status: 403, message }
    }

    pub(super) fn missing(message: String) -> Thrown {
        Thrown { class: "DoesNotExistError", status: 404, message }
    }

    pub(super) fn server(class: &'static str, message: &str) -> Thrown {
        Thrown { class, status: 500, message: message.into() }
    }

    /// `report_error` in `frappe/utils/response.py`: the class always, the message as a list, as text, of objects, as
    /// text. Messages are in the user's language; the class never is.
    pub(super) fn into_response(self, language: &str) -> Response {
        let message = translated(&self.message, language);
        let packed =
            json!({ "message": message, "title": "Message", "indicator": "red", "raise_exception": 1 });
        let mut body = Map::new();
        body.insert("exc_type".into(), self.class.into());
        body.insert("_server_messages".into(), json!([packed.to_string()]).to_string().into());
        if self.status != 404 {
            let traceback =
                format!("Traceback (most recent call last):\nfrappe.exceptions.{}: {message}", self.class);
            body.insert("exception".into(), format!("frappe.exceptions.{}: {message}", self.class).into());
            body.insert("exc".into(), json!([traceback]).to_string().into());
        }
        let status = StatusCode::from_u16(self.status).expect("a status of Frappe's");
        (status, Json(Value::Object(body))).into_response()
    }
}

/// `frappe._`: the official tool recognises errors by their English words, and misses these.
fn translated(message: &str, language: &str) -> String {
    if language != "de" {
        return message.to_owned();
    }
    for (english, german) in [
        (
            "This employee already has a log with the same timestamp.",
            "Dieser Mitarbeiter hat bereits ein Protokoll mit demselben Zeitstempel.",
        ),
        (
            "No Employee found for the given employee field value.",
            "Es wurde kein Mitarbeiter für den angegebenen Mitarbeiterfeldwert gefunden.",
        ),
        (
            "Transactions cannot be created for an Inactive Employee",
            "Für einen inaktiven Mitarbeiter können keine Transaktionen erstellt werden",
        ),
    ] {
        if let Some(rest) = message.strip_prefix(english) {
            return format!("{german}{rest}");
        }
    }
    message.to_owned()
}
