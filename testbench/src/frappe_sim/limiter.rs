//! Frappe's limit for a whole site: of processing time, not of requests. It follows `frappe/rate_limiter.py`.

use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::civil::DateTime;

/// `rate_limit` in a site's configuration, and what a request costs here.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Processing time per window, microseconds.
    pub limit_us: u64,
    /// The window, seconds; windows are counted from 1970, not from the first request.
    pub window_s: u64,
    /// What each request takes of it, microseconds.
    pub cost_us: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limiter {
    limit: Option<RateLimit>,
    window: u64,
    used_us: u64,
}

/// 429. Its body is a text and no JSON.
pub(super) struct TooMany {
    limit: RateLimit,
    reset_s: u64,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit) -> Limiter {
        Limiter { limit: Some(limit), window: 0, used_us: 0 }
    }

    /// A request is refused once more than the limit is used up: the one that uses it up passes.
    pub(super) fn admit(&mut self, now: DateTime) -> Result<(), TooMany> {
        let Some(limit) = self.limit else { return Ok(()) };
        let (window, spent) = (seconds(now) / limit.window_s, seconds(now) % limit.window_s);
        if window != self.window {
            (self.window, self.used_us) = (window, 0);
        }
        if self.used_us > limit.limit_us {
            return Err(TooMany { limit, reset_s: limit.window_s - spent });
        }
        self.used_us += limit.cost_us;
        Ok(())
    }

    /// Limit and what remains are told in microseconds, the reset in seconds.
    pub(super) fn stamped(&self, now: DateTime, mut response: Response) -> Response {
        if let Some(limit) = self.limit {
            let reset_s = limit.window_s - seconds(now) % limit.window_s;
            stamp(&mut response, limit.limit_us, limit.limit_us.saturating_sub(self.used_us), reset_s);
        }
        response
    }
}

impl IntoResponse for TooMany {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::TOO_MANY_REQUESTS, "Too Many Requests").into_response();
        stamp(&mut response, self.limit.limit_us, 0, self.reset_s);
        response.headers_mut().insert("retry-after", HeaderValue::from(self.reset_s));
        response
    }
}

fn stamp(response: &mut Response, limit_us: u64, remaining_us: u64, reset_s: u64) {
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit", HeaderValue::from(limit_us));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(remaining_us));
    headers.insert("x-ratelimit-reset", HeaderValue::from(reset_s));
}

fn seconds(now: DateTime) -> u64 {
    let at = now.to_zoned(jiff::tz::TimeZone::UTC).expect("UTC has every time");
    u64::try_from(at.timestamp().as_second()).unwrap_or(0)
}
