//! Step 12 of 12: from settings to the client that their kind needs. Knows all kinds; nothing of what they say.

use std::time::Duration;

use tap_protocol::ids::EventId;

use super::frappe_hr::{self, Advances, FrappeHr};
use super::guard::Guard;
use super::http_json::{self, CannotStart, HttpJson};
use super::settings::{AfterUnknown, DestinationSettings, Kind, MAX_TIMEOUT_MS};
use super::{Answered, CannotRender, Destination, LookedUp, Probe, Sample};
use crate::clock::Clock;
use crate::event_store::DeliverableTap;

const _: () =
    assert!(MAX_TIMEOUT_MS <= crate::config::MAX_TIMEOUT_MS, "a lease is made for requests up to this");

/// A destination of any kind. A process may have several, of several kinds.
pub enum AnyDestination {
    /// A JSON API.
    HttpJson(Box<HttpJson>),
    /// Frappe HR.
    FrappeHr(Box<FrappeHr>),
}

impl AnyDestination {
    /// Opens it. `credentials` are what its kind wants: the value of the `Authorization` header, or Frappe's
    /// `api_key:api_secret`. `deployment` is what destinations may reach beyond the public internet in any case.
    pub fn open(
        settings: &DestinationSettings,
        credentials: Option<&str>,
        deployment: &Guard,
        clock: Clock,
    ) -> Result<AnyDestination, CannotStart> {
        let guard = deployment.clone();
        let timeout = Duration::from_millis(settings.timeout_ms);
        let (url, after_unknown) = (&settings.url, settings.after_unknown);
        match &settings.kind {
            Kind::HttpJson(kind) => {
                let authorization = credentials;
                let connection =
                    http_json::Connection { url, timeout, after_unknown, authorization, guard, clock };
                HttpJson::new(kind, connection).map(Box::new).map(AnyDestination::HttpJson)
            }
            Kind::FrappeHr(kind) => {
                let connection =
                    frappe_hr::Connection { url, timeout, after_unknown, credentials, guard, clock };
                FrappeHr::new(kind, connection).map(Box::new).map(AnyDestination::FrappeHr)
            }
        }
    }
}

impl Advances for AnyDestination {
    fn as_frappe_hr(&self) -> Option<&FrappeHr> {
        match self {
            AnyDestination::HttpJson(_) => None,
            AnyDestination::FrappeHr(frappe) => Some(frappe),
        }
    }
}

impl Destination for AnyDestination {
    fn render(&self, event: EventId, tap: &DeliverableTap) -> Result<String, CannotRender> {
        match self {
            AnyDestination::HttpJson(api) => api.render(event, tap),
            AnyDestination::FrappeHr(frappe) => frappe.render(event, tap),
        }
    }

    async fn send(&self, event: EventId, rendered: String) -> Answered {
        match self {
            AnyDestination::HttpJson(api) => api.send(event, rendered).await,
            AnyDestination::FrappeHr(frappe) => frappe.send(event, rendered).await,
        }
    }

    fn after_unknown(&self) -> AfterUnknown {
        match self {
            AnyDestination::HttpJson(api) => api.after_unknown(),
            AnyDestination::FrappeHr(frappe) => frappe.after_unknown(),
        }
    }

    fn settles_after_ms(&self) -> u64 {
        match self {
            AnyDestination::HttpJson(api) => api.settles_after_ms(),
            AnyDestination::FrappeHr(frappe) => frappe.settles_after_ms(),
        }
    }

    async fn look_up(&self, event: EventId, rendered: &str) -> LookedUp {
        match self {
            AnyDestination::HttpJson(api) => api.look_up(event, rendered).await,
            AnyDestination::FrappeHr(frappe) => frappe.look_up(event, rendered).await,
        }
    }

    async fn probe(&self, sample: Option<&Sample>) -> Probe {
        match self {
            AnyDestination::HttpJson(api) => api.probe(sample).await,
            AnyDestination::FrappeHr(frappe) => frappe.probe(sample).await,
        }
    }
}
