//! Beside the line: how far long work is, for people: on a terminal only, beside what is printed, and gone when it ends.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `total` of `what`.
pub fn bar(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len} ({eta})");
    ProgressBar::new(total).with_style(style.expect("the template is right")).with_message(what.to_owned())
}
