//! `./dev prove`.
fn main() {}
