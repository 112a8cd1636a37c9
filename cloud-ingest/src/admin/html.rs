//! Beside the line: HTML that cannot be injected into: everything that is put into a page is escaped on its way.

use std::fmt::{self, Display, Write};

/// A page in the making. Tags come from literals alone; see `put!`.
#[derive(Debug, Default)]
pub struct Html(String);

/// Shows a value with `& < > " '` escaped: fit for text and for quoted attributes.
pub struct Escaped<'a, T: Display>(pub &'a T);

/// `put!(page, "<td>{}</td>", value)`: the literal goes in as it is, every value escaped.
macro_rules! put {
    ($page:expr, $literal:literal $(, $value:expr)* $(,)?) => {
        $page.write(format_args!($literal $(, $crate::admin::html::Escaped(&$value))*))
    };
}
pub(crate) use put;

impl Html {
    /// Appends; use `put!` instead.
    pub(crate) fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String does not fail");
    }

    /// Appends another piece, which was escaped in the making.
    pub fn append(&mut self, other: Html) {
        self.0.push_str(&other.0);
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<T: Display> Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(['&', '<', '>', '"', '\'']) {
            let mut chars = part.chars();
            let entity = match chars.next_back() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                Some('\'') => "&#39;",
                _ => {
                    self.0.write_str(part)?;
                    continue;
                }
            };
            self.0.write_str(chars.as_str())?;
            self.0.write_str(entity)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_literals_are_not() {
        let mut page = Html::default();
        put!(page, "<a title=\"{}\">{}</a>", "\"><script>alert('1')</script>", "Tom & <Jerry>");
        assert_eq!(
            page.into_string(),
            "<a title=\"&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\">Tom &amp; &lt;Jerry&gt;</a>"
        );
    }

    #[test]
    fn text_without_anything_special_stays() {
        assert_eq!(Escaped(&"ä plain 1").to_string(), "ä plain 1");
        assert_eq!(Escaped(&7).to_string(), "7");
        assert_eq!(Escaped(&"").to_string(), "");
    }
}
