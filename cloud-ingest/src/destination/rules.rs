//! Step 12 of 12: what a JSON API's answers mean, declared. Pure: knows a status and a JSON value; what no rule speaks
//! of is for [`super::http_json::judge`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// So many rules at most.
pub const MAX_RULES: usize = 32;

/// If an answer has one of these statuses and all of these hold, it means this. The first rule that fits counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// One of these.
    pub status: Vec<u16>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
    /// The status alone says it, whatever the body is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_body: bool,
    /// This is what it means.
    pub means: Meaning,
}

/// What an answer can be declared to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Taken.
    Delivered,
    /// It had been taken before.
    Duplicate,
    /// Refused for good: a person has to look.
    Refused,
    /// Not processed: to be tried again.
    Retry,
    /// We are not let in: nobody's tap is at fault.
    Unauthorized,
}

/// Something that holds of the body, which must be JSON. Of `is`, `contains` and `exists`, exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Where: a JSON pointer (RFC 6901), such as `/result/status`; the empty one is the whole body.
    pub at: String,
    /// It is exactly this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Value>,
    /// It is a text with this in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// It is there at all, or it is not. `null` counts as not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

impl Condition {
    fn holds(&self, body: &Value) -> bool {
        let there = body.pointer(&self.at).filter(|value| !value.is_null());
        self.is.as_ref().is_none_or(|wanted| body.pointer(&self.at) == Some(wanted))
            && self.contains.as_ref().is_none_or(|part| {
                there.and_then(Value::as_str).is_some_and(|text| text.contains(part.as_str()))
            })
            && self.exists.is_none_or(|wanted| there.is_some() == wanted)
    }
}

impl Rule {
    fn fits(&self, status: u16, body: Option<&Value>) -> bool {
        self.status.contains(&status)
            && (self.any_body || body.is_some_and(|body| self.when.iter().all(|that| that.holds(body))))
    }

    fn complaint(&self) -> Option<String> {
        if self.status.is_empty() || self.status.iter().any(|status| !(200..=599).contains(status)) {
            return Some("name the statuses that it is for, from 200 to 599".into());
        }
        if self.status.iter().any(|status| matches!(status, 301..=308)) {
            return Some("a redirect is not followed and means nothing".into());
        }
        let takes = matches!(self.means, Meaning::Delivered | Meaning::Duplicate);
        if takes && self.status.iter().any(|status| *status == 429 || *status >= 500) {
            return Some("a tap is not taken with 429 or 5xx: a proxy before the API says the same".into());
        }
        if self.any_body != self.when.is_empty() {
            return Some(
                "say in `when` what the body must hold, because log-in pages and proxies answer 200 too; or, if the \
                 status alone says it, write any_body = true and no `when`"
                    .into(),
            );
        }
        self.when.iter().find_map(|that| {
            let says = [that.is.is_some(), that.contains.is_some(), that.exists.is_some()];
            if says.into_iter().filter(|one| *one).count() != 1 {
                Some(format!("at {:?}: say one of is, contains, exists", that.at))
            } else if !that.at.is_empty() && !that.at.starts_with('/') {
                Some(format!("{:?} is no JSON pointer: write one such as /result/status", that.at))
            } else {
                None
            }
        })
    }
}

/// What the first rule that fits says. `body` is `None` if it is no JSON.
pub fn meaning(rules: &[Rule], status: u16, body: Option<&Value>) -> Option<Meaning> {
    rules.iter().find(|rule| rule.fits(status, body)).map(|rule| rule.means)
}

/// What is wrong with these rules.
pub fn complaint(rules: &[Rule]) -> Option<String> {
    if rules.len() > MAX_RULES {
        return Some(format!("use at most {MAX_RULES}"));
    }
    if !rules.is_empty() && !rules.iter().any(|rule| rule.means == Meaning::Delivered) {
        return Some("no rule says which answer means that a tap was taken (means = \"delivered\")".into());
    }
    let complaint = |(i, rule): (usize, &Rule)| rule.complaint().map(|why| format!("rule {}: {why}", i + 1));
    rules.iter().enumerate().find_map(complaint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Vec<Rule> {
        serde_json::from_value(json!([
            { "status": [200], "when": [{ "at": "/result/code", "is": 0 }], "means": "delivered" },
            { "status": [200, 409], "when": [{ "at": "/result/text", "contains": "already" }],
              "means": "duplicate" },
            { "status": [200], "when": [{ "at": "/result/code", "is": 17 }, { "at": "/retry", "exists": true }],
              "means": "retry" },
            { "status": [200], "when": [{ "at": "/retry", "exists": false }], "means": "refused" },
            { "status": [204], "any_body": true, "means": "delivered" }
        ]))
        .unwrap()
    }

    #[track_caller]
    fn check(status: u16, body: Value, expect: Option<Meaning>) {
        assert_eq!(meaning(&rules(), status, Some(&body)), expect, "{status} {body}");
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        assert_eq!(complaint(&rules()), None);
        check(200, json!({ "result": { "code": 0, "text": "already" } }), Some(Meaning::Delivered));
        check(200, json!({ "result": { "code": 1, "text": "is already there" } }), Some(Meaning::Duplicate));
        check(409, json!({ "result": { "text": "already" } }), Some(Meaning::Duplicate));
        check(200, json!({ "result": { "code": 17 }, "retry": "soon" }), Some(Meaning::Retry));
        check(200, json!({ "result": { "code": 17 }, "retry": null }), Some(Meaning::Refused));
        check(200, json!([]), Some(Meaning::Refused));
    }

    #[test]
    fn what_no_rule_speaks_of_means_nothing() {
        check(201, json!({ "result": { "code": 0 } }), None);
        check(409, json!({ "result": { "text": 7 } }), None);
        check(200, json!({ "result": { "code": "0" }, "retry": 1 }), None);
        assert_eq!(meaning(&rules(), 200, None), None, "a body that is no JSON fits no condition");
        assert_eq!(meaning(&rules(), 204, None), Some(Meaning::Delivered));
        assert_eq!(meaning(&[], 200, Some(&json!({}))), None);
    }

    #[test]
    fn a_bad_rule_says_which_and_why() {
        let wrong = |rule: Value, says: &str| {
            let rules = [rules(), vec![serde_json::from_value(rule.clone()).unwrap()]].concat();
            let why = complaint(&rules).expect("it is wrong");
            assert!(why.starts_with("rule 6: ") && why.contains(says), "{rule}: {why}");
        };
        wrong(json!({ "status": [], "any_body": true, "means": "refused" }), "name the statuses");
        wrong(json!({ "status": [100], "any_body": true, "means": "refused" }), "from 200 to 599");
        wrong(json!({ "status": [302], "any_body": true, "means": "delivered" }), "redirect");
        wrong(json!({ "status": [503], "any_body": true, "means": "delivered" }), "a proxy before the API");
        wrong(json!({ "status": [200], "means": "delivered" }), "log-in pages");
        let when = json!([{ "at": "/a", "is": 1 }]);
        wrong(json!({ "status": [200], "any_body": true, "when": when, "means": "retry" }), "any_body");
        wrong(json!({ "status": [200], "when": [{ "at": "/a" }], "means": "retry" }), "say one of");
        let two = json!([{ "at": "/a", "is": 1, "exists": true }]);
        wrong(json!({ "status": [200], "when": two, "means": "retry" }), "say one of");
        let at = json!([{ "at": "a.b", "exists": true }]);
        wrong(json!({ "status": [200], "when": at, "means": "retry" }), "no JSON pointer");
        let refusing: Rule =
            serde_json::from_value(json!({ "status": [422], "any_body": true, "means": "refused" })).unwrap();
        assert!(complaint(std::slice::from_ref(&refusing)).unwrap().contains("no rule says"));
        assert!(complaint(&vec![refusing; 33]).unwrap().contains("at most 32"));
        assert!(serde_json::from_value::<Rule>(json!({ "status": [200], "means": "fine" })).is_err());
    }
}
