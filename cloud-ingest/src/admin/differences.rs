//! Beside the line: the page of what destinations were told and came out otherwise later, for whoever corrects it there.
//! Pure: a page of them in, markup out.

use super::html::{Html, put};
use super::page::{foot, head};
use crate::api::view::Differences;

/// The newest taps' first, with the way to older ones.
pub fn differences(shown: &Differences) -> Html {
    let mut page = Html::default();
    head(&mut page, "Differences");
    if shown.differences.is_empty() {
        put!(
            page,
            "<section class=\"card\"><h2>No differences</h2><p>What destinations were told of these taps is what is \
             known now.</p><p><a href=\"/\">← Overview</a></p></section>"
        );
    } else {
        table(&mut page, shown);
    }
    foot(&mut page);
    page
}

fn table(page: &mut Html, shown: &Differences) {
    put!(
        page,
        "<section class=\"card\"><div class=\"scroll\"><table><caption>Told otherwise than it is</caption><thead><tr>"
    );
    for column in ["Position", "Tap at", "Where", "Destination", "What", "Was told", "Is", "Details"] {
        put!(page, "<th scope=\"col\">{}</th>", column);
    }
    put!(page, "</tr></thead><tbody>");
    for one in &shown.differences {
        put!(page, "<tr>");
        // The last one is the event's name: it is the link.
        for cell in one.in_words().iter().take(7) {
            put!(page, "<td>{}</td>", cell);
        }
        put!(page, "<td><a href=\"/events/{}\">Story</a></td></tr>", one.event_id);
    }
    put!(page, "</tbody></table></div>");
    if let Some(next) = shown.next_before {
        put!(page, "<p><a href=\"/differences?before={}\">Older ones →</a></p>", next.0);
    }
    put!(page, "</section>");
}
