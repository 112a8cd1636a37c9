//! Step 12 of 12: the shape of a request to a JSON API, declared and filled in. Pure: the same tap gives the same bytes.
//! Knows nothing of answers; they are for [`super::rules`].

use core::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tap_protocol::ids::EventId;

use super::CannotRender;
use super::fields::{DirectionWords, Field, Text, Value};
use crate::event_store::DeliverableTap;

/// What is sent when nothing else is said: the contract of `docs/destinations.md`, byte for byte.
pub const DEFAULT_BODY: &str = concat!(
    r#"{"idempotency_key":"{event_id}","event_id":"{event_id}","person":"{person}","direction":"{direction}","#,
    r#""occurred_at":"{occurred_local}","uncertainty_ms":"{uncertainty_ms}","#,
    r#""site":"{site}","controller":"{controller}","reader":"{reader}"}"#
);

/// A template nests this deep at most: far deeper than any API, and far from the stack's end.
pub const MAX_DEPTH: usize = 16;

/// A template has this many values at most.
pub const MAX_VALUES: usize = 256;

/// A request: which method to which path, with which headers and body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// `POST`, unless it is `PUT` or `PATCH`.
    pub method: Method,
    /// What follows the destination's address, such as `/employees/{person}/punches`; nothing if not given.
    pub path: Option<Text>,
    /// The header that carries the idempotency key; `null` for an API that reads it from the body.
    pub idempotency_header: Option<String>,
    /// Further headers, the same for all taps.
    pub headers: Vec<Header>,
    /// How the destination calls the directions.
    pub directions: DirectionWords,
    /// The JSON object.
    pub body: Shape,
}

/// How a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `POST`.
    #[default]
    Post,
    /// `PUT`.
    Put,
    /// `PATCH`.
    Patch,
}

impl Method {
    /// As it is written in a request.
    pub fn name(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        }
    }
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Default for Template {
    fn default() -> Template {
        Template {
            method: Method::Post,
            path: None,
            idempotency_header: Some("idempotency-key".into()),
            headers: Vec::new(),
            directions: DirectionWords::default(),
            body: serde_json::from_str(DEFAULT_BODY).expect("the default is a template"),
        }
    }
}

/// A request as it is kept: rendered once, and the same bytes at every attempt, whatever becomes of the template.
///
/// It is kept as text. Where the path is the same for all taps, the text is the body. Otherwise the path stands before
/// it on a line of its own; a body is a JSON object, so the two cannot be confused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What follows the destination's address, if it is not the same for all taps.
    pub path: Option<String>,
    /// The body.
    pub body: String,
}

impl Rendered {
    /// As it is kept.
    pub fn into_text(self) -> String {
        match self.path {
            None => self.body,
            Some(path) => format!("{path}\n{}", self.body),
        }
    }

    /// What was kept.
    pub fn from_text(text: String) -> Rendered {
        match text.split_once('\n') {
            Some((path, body)) if path.starts_with('/') => {
                Rendered { path: Some(path.to_owned()), body: body.to_owned() }
            }
            _ => Rendered { path: None, body: text },
        }
    }
}

impl Template {
    /// The request for a tap.
    pub fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<Rendered, CannotRender> {
        let path = match &self.path {
            Some(path) if path.fields().next().is_some() => {
                Some(path.fill_as_text(event, tap, &self.directions, path_segment)?)
            }
            _ => None,
        };
        let mut body = String::new();
        self.body.write(event, tap, &self.directions, &mut body)?;
        Ok(Rendered { path, body })
    }

    /// The path, if it is the same for all taps.
    pub fn fixed_path(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        path.fields()
            .next()
            .is_none()
            .then(|| String::from(path.clone()).replace("{{", "{").replace("}}", "}"))
    }

    /// Whether the request says which event it is for: without that no API can tell a repetition from a second tap.
    pub fn tells_the_key(&self) -> bool {
        self.idempotency_header.is_some()
            || self.body.names(Field::EventId)
            || self.path.as_ref().is_some_and(|path| path.fields().any(|field| field == Field::EventId))
    }

    /// What is wrong with it, and where.
    pub fn complaint(&self) -> Option<(&'static str, String)> {
        if !matches!(self.body, Shape::Object(_)) {
            return Some(("body", "use a JSON object: {\"person\": \"{person}\", …}".into()));
        }
        let (depth, values) = self.body.size();
        if depth > MAX_DEPTH || values > MAX_VALUES {
            return Some(("body", format!("use at most {MAX_VALUES} values, at most {MAX_DEPTH} deep")));
        }
        if let Some(path) = &self.path {
            let path = String::from(path.clone());
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\\"<>".contains(&byte);
            if !path.starts_with('/') || !path.bytes().all(is_plain) {
                return Some((
                    "path",
                    format!("{path:?} is no path: write one such as /people/{{person}}/taps"),
                ));
            }
            if path.split('/').any(|segment| segment == "." || segment == "..") {
                return Some(("path", format!("{path:?} leads elsewhere: write it without . and ..")));
            }
        }
        let names = self.idempotency_header.iter().chain(self.headers.iter().map(|header| &header.name));
        let mut seen: Vec<String> = Vec::new();
        for name in names {
            let name = name.to_ascii_lowercase();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Some(("headers", format!("{name:?} is no name of a header")));
            }
            if OURS.contains(&name.as_str()) {
                return Some(("headers", format!("{name} is not for a template to say{}", hint(&name))));
            }
            if seen.contains(&name) {
                return Some(("headers", format!("{name} is there twice")));
            }
            seen.push(name);
        }
        let bad = self.headers.iter().find(|header| {
            header.value.len() > 1024 || !header.value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        });
        bad.map(|header| ("headers", format!("the value of {} is no plain line of ASCII", header.name)))
    }
}

/// Headers that belong to the connection or carry secrets.
const OURS: [&str; 12] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

fn hint(name: &str) -> &'static str {
    if name == "authorization" {
        ": give it as the destination's credentials, which are kept secret"
    } else {
        ""
    }
}

/// A value as one segment of a path: all but RFC 3986's unreserved characters is encoded. What would lead elsewhere all
/// the same cannot be sent.
fn path_segment(value: String) -> Result<String, CannotRender> {
    if value.is_empty() || value == "." || value == ".." {
        return Err(CannotRender(format!("{value:?} cannot stand in a path")));
    }
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(encoded)
}

/// JSON with fields in its texts. Members keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// The same for all taps: a number, a truth value, nothing.
    Constant(serde_json::Value),
    /// A text with fields in it; a field alone keeps its kind.
    Text(Text),
    /// A list.
    List(Vec<Shape>),
    /// An object.
    Object(Vec<(String, Shape)>),
}

impl Shape {
    fn write(
        &self,
        event: EventId,
        tap: &DeliverableTap,
        words: &DirectionWords,
        json: &mut String,
    ) -> Result<(), CannotRender> {
        match self {
            Shape::Constant(value) => json.push_str(&value.to_string()),
            Shape::Text(text) => match text.fill(event, tap, words)? {
                Value::Text(text) => json.push_str(&quoted(&text)),
                Value::Number(number) => json.push_str(&number.to_string()),
                Value::Null => json.push_str("null"),
            },
            Shape::List(items) => {
                json.push('[');
                for (i, item) in items.iter().enumerate() {
                    json.push_str(if i == 0 { "" } else { "," });
                    item.write(event, tap, words, json)?;
                }
                json.push(']');
            }
            Shape::Object(members) => {
                json.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    json.push_str(if i == 0 { "" } else { "," });
                    json.push_str(&quoted(name));
                    json.push(':');
                    value.write(event, tap, words, json)?;
                }
                json.push('}');
            }
        }
        Ok(())
    }

    fn names(&self, wanted: Field) -> bool {
        match self {
            Shape::Constant(_) => false,
            Shape::Text(text) => text.fields().any(|field| field == wanted),
            Shape::List(items) => items.iter().any(|item| item.names(wanted)),
            Shape::Object(members) => members.iter().any(|(_, value)| value.names(wanted)),
        }
    }

    /// How deep it nests, and how many values it has.
    fn size(&self) -> (usize, usize) {
        let inner: Vec<&Shape> = match self {
            Shape::Constant(_) | Shape::Text(_) => return (0, 1),
            Shape::List(items) => items.iter().collect(),
            Shape::Object(members) => members.iter().map(|(_, value)| value).collect(),
        };
        let sizes = inner.into_iter().map(Shape::size);
        let (depth, values) = sizes.fold((0, 1), |(d, v), (depth, values)| (d.max(depth), v + values));
        (depth + 1, values)
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is always JSON")
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON, with fields such as {person} in its texts")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Constant(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Constant(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Constant(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Constant(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Constant(serde_json::Value::Null))
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Constant(serde_json::Value::Null))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Shape, E> {
        Text::parse(text).map(Shape::Text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Shape, A::Error> {
        let mut object: Vec<(String, Shape)> = Vec::new();
        while let Some((name, value)) = members.next_entry::<String, Shape>()? {
            if object.iter().any(|(other, _)| *other == name) {
                return Err(de::Error::custom(format!("the body has {name:?} twice")));
            }
            object.push((name, value));
        }
        Ok(Shape::Object(object))
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Shape::Constant(value) => value.serialize(serializer),
            Shape::Text(text) => text.serialize(serializer),
            Shape::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Shape::Object(members) => {
                let mut object = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| object.serialize_entry(name, value))?;
                object.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::fields::tests::tap;

    fn read(json: &str) -> Template {
        let template: Template = serde_json::from_str(json).unwrap();
        assert_eq!(template.complaint(), None, "{json}");
        let again = serde_json::to_string(&template).unwrap();
        assert_eq!(serde_json::from_str::<Template>(&again).unwrap(), template, "{again}");
        template
    }

    #[track_caller]
    fn wrong(json: &str, place: &str, says: &str) {
        let template: Template = serde_json::from_str(json).unwrap();
        let (at, why) = template.complaint().expect(json);
        assert_eq!(at, place, "{why}");
        assert!(why.contains(says), "{why}");
    }

    #[test]
    fn the_default_is_what_was_always_sent_byte_for_byte() {
        let (event, tap) = tap();
        let rendered = Template::default().render(event, &tap).unwrap();
        assert_eq!(
            rendered.clone().into_text(),
            concat!(
                r#"{"idempotency_key":"058b8351-c0a3-8a64-a2a3-000000000102","#,
                r#""event_id":"058b8351-c0a3-8a64-a2a3-000000000102","person":"E-\"1007","direction":"in","#,
                r#""occurred_at":"2026-03-02T08:00:00.250+01:00","uncertainty_ms":3,"#,
                r#""site":"hq","controller":"hq-door-12","reader":"in"}"#
            )
        );
        assert_eq!(read("{}"), Template::default());
        assert_eq!(Template::default().render(event, &tap.clone()).unwrap(), rendered);
    }

    #[test]
    fn members_keep_their_order_and_values_their_kind() {
        let template = read(
            r#"{"body":{"z":"{uncertainty_ms}","a":[true,null,1.5,-7,"{person}"],"m":{"at":"{occurred_epoch_ms}",
                "note":"±{uncertainty_ms}\n{{}}"}}}"#,
        );
        let (event, tap) = tap();
        assert_eq!(
            template.render(event, &tap).unwrap().body,
            "{\"z\":3,\"a\":[true,null,1.5,-7,\"E-\\\"1007\"],\"m\":{\"at\":1772434800250,\"note\":\"±3\\n{}\"}}"
        );
    }

    #[test]
    fn a_path_with_fields_is_kept_with_the_body() {
        let template = read(
            r#"{"method":"PUT","path":"/people/{person}/taps/{event_id}","body":{"at":"{occurred_utc}"}}"#,
        );
        let (event, mut tap) = tap();
        tap.person.0 = "../Zoë 1".into();
        let rendered = template.render(event, &tap).unwrap();
        assert_eq!(
            rendered.path.as_deref(),
            Some("/people/..%2FZo%C3%AB%201/taps/058b8351-c0a3-8a64-a2a3-000000000102")
        );
        let text = rendered.clone().into_text();
        assert!(text.ends_with("\n{\"at\":\"2026-03-02T07:00:00.250Z\"}"), "{text}");
        assert_eq!(Rendered::from_text(text), rendered);
        assert_eq!(template.fixed_path(), None);
        for person in ["..", ".", ""] {
            tap.person.0 = person.into();
            let why = template.render(event, &tap).unwrap_err();
            assert_eq!(why.0, format!("{person:?} cannot stand in a path"));
        }
    }

    #[test]
    fn a_path_without_fields_is_not_kept() {
        let template = read(r#"{"path":"/v2/taps"}"#);
        let (event, tap) = tap();
        assert_eq!(template.render(event, &tap).unwrap().path, None);
        assert_eq!(template.fixed_path().as_deref(), Some("/v2/taps"));
        let body = template.render(event, &tap).unwrap().into_text();
        assert_eq!(Rendered::from_text(body.clone()), Rendered { path: None, body });
    }

    #[test]
    fn it_is_known_whether_the_key_is_told() {
        assert!(read("{}").tells_the_key());
        assert!(read(r#"{"idempotency_header":null}"#).tells_the_key());
        let silent = r#"{"idempotency_header":null,"body":{"who":"{person}"}}"#;
        assert!(!read(silent).tells_the_key());
        assert!(read(&silent.replace("null,", r#"null,"path":"/{event_id}","#)).tells_the_key());
        assert!(read(&silent.replace("{person}", "tap-{event_id}")).tells_the_key());
    }

    #[test]
    fn a_bad_template_says_where_and_what_to_do() {
        wrong(r#"{"body":[]}"#, "body", "use a JSON object");
        wrong(r#"{"body":"{person}"}"#, "body", "use a JSON object");
        let deep = format!(r#"{{"body":{}1{}}}"#, r#"{"a":"#.repeat(17), "}".repeat(17));
        wrong(&deep, "body", "at most 16 deep");
        let long = (0..300).map(|i| format!(r#""m{i}":{i}"#)).collect::<Vec<_>>().join(",");
        wrong(&format!(r#"{{"body":{{{long}}}}}"#), "body", "at most 256 values");
        wrong(r#"{"path":"taps"}"#, "path", "is no path");
        wrong(r#"{"path":"/a?b={person}"}"#, "path", "is no path");
        wrong(r#"{"path":"/a b"}"#, "path", "is no path");
        wrong(r#"{"path":"/a/../b"}"#, "path", "leads elsewhere");
        wrong(
            r#"{"headers":[{"name":"Authorization","value":"x"}]}"#,
            "headers",
            "the destination's credentials",
        );
        wrong(r#"{"idempotency_header":"Host"}"#, "headers", "is not for a template to say");
        wrong(r#"{"headers":[{"name":"a b","value":"x"}]}"#, "headers", "is no name of a header");
        wrong(r#"{"headers":[{"name":"x","value":"a\r\nb: c"}]}"#, "headers", "no plain line");
        wrong(
            r#"{"headers":[{"name":"X","value":"1"},{"name":"x","value":"2"}]}"#,
            "headers",
            "x is there twice",
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error_too() {
        for (json, says) in [
            (r#"{"body":{"a":"{persn}"}}"#, "there is no field {persn}"),
            (r#"{"body":{"a":1,"a":2}}"#, "twice"),
            (r#"{"boddy":{}}"#, "unknown field"),
            (r#"{"method":"GET"}"#, "unknown variant"),
        ] {
            let why = serde_json::from_str::<Template>(json).unwrap_err().to_string();
            assert!(why.contains(says), "{why}");
        }
    }
}
