//! Beside the line: how this controller comes by its certificate and keys, and by the next ones. `client.rs` speaks to the
//! cloud over `https.rs`, `bundle.rs` looks at what it gave, `folder.rs` keeps it. When to renew is decided in
//! [`crate::renewal`]; who connects with what in [`crate::credentials`].

pub mod bundle;
pub mod client;
pub mod folder;
pub mod https;
