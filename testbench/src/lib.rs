//! Real processes and stand-ins for Tapline's demo, tests and benchmarks; only [`site`] and [`oracle`] know the products.
//!
//! Each part is both a library module, for tests that want a handle on it, and a thin binary:
//!
//! | module | what it stands in for | binary |
//! |---|---|---|
//! | [`legacy_sim`] | the slow legacy attendance API, misbehaving on request | `legacy-sim` |
//! | [`virtual_card`] | a badge held to a PC/SC reader | `virtual-card` |
//! | [`fault_proxy`] | a network that breaks | `fault-proxy` |
//! | [`enrolment_server`] | the cloud's side of enrolment, misbehaving on request | |
//! | [`authority`] | a certificate authority | |
//! | [`rig`] | starts and stops the real servers and our own programs | |
//! | [`site`] | a whole Tapline: all of the above, wired | |
//! | [`oracle`] | judges what a site did, from its files | |
//! | [`mod@bench`] | measures a site | `bench` |
//! | [`documents`] | finds the commands that documents tell people to type | |
//!
//! Everything listens on loopback only and dies with the process that started it.

pub mod authority;
pub mod bench;
pub mod documents;
pub mod enrolment_server;
pub mod fault_proxy;
pub mod frappe_sim;
pub mod legacy_sim;
pub mod oracle;
pub mod rig;
pub mod site;
mod stopwatch;
pub mod twin;
pub mod virtual_card;

/// An HTTP client for tests and tools, without redirects and without a pool of idle connections.
///
/// Installs the process-wide TLS provider first: without one, `reqwest` panics.
///
/// # Panics
///
/// When the client can't be built, which only a broken build of `reqwest` can cause.
pub fn http_client() -> reqwest::Client {
    // An error says that a provider is installed already, which is all we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client with default TLS settings builds")
}
