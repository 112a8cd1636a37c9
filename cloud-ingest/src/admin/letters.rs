//! Beside the line: the part of the page about deliveries that wait for a person, and about replays that are not over. Pure.

use super::html::{Html, put};
use super::page::{Snapshot, grouped};
use crate::event_store::replays::{Letters, ReplayStanding, ReplayState};

/// Nothing at all, where nobody waits and nothing is replayed: but the place stays.
pub fn section(page: &mut Html, snapshot: &Snapshot) {
    put!(page, "<section id=\"letters\" data-live>");
    if !snapshot.letters.is_empty() {
        groups(page, &snapshot.letters);
    }
    let open: Vec<&ReplayState> = snapshot.replays.iter().filter(|one| is_open(one)).collect();
    if !open.is_empty() {
        replays(page, &open);
    }
    put!(page, "</section>");
}

fn is_open(replay: &ReplayState) -> bool {
    let begins = matches!(replay.standing, ReplayStanding::Running | ReplayStanding::Paused);
    begins || replay.counts.sending > 0
}

fn groups(page: &mut Html, letters: &[Letters]) {
    put!(
        page,
        "<div class=\"card\"><div class=\"scroll\"><table><caption>Waiting for a person</caption><thead><tr><th scope=\"col\">Destination</th><th scope=\"col\">Why</th><th scope=\"col\" class=\"num\">How many</th><th scope=\"col\">What was said last</th></tr></thead><tbody>"
    );
    for Letters { destination, reason, count, newest } in letters {
        put!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"num\">{}</td><td>",
            destination,
            reason.replace('_', " "),
            grouped(*count)
        );
        if let Some(newest) = newest {
            let status = newest.status.map_or_else(String::new, |status| format!("{status} "));
            let said = newest.answer.as_deref().unwrap_or("nothing");
            put!(page, "<code>{}{}</code> <a href=\"/events/{}\">Details</a>", status, said, newest.event_id);
        }
        put!(page, "</td></tr>");
    }
    put!(
        page,
        "</tbody></table></div><p class=\"sub\"><code>cloud-ingest dlq</code> decides about them.</p></div>"
    );
}

fn replays(page: &mut Html, replays: &[&ReplayState]) {
    put!(
        page,
        "<div class=\"card\"><div class=\"scroll\"><table><caption>Replays</caption><thead><tr><th scope=\"col\">Replay</th><th scope=\"col\">Destination</th><th scope=\"col\">State</th><th scope=\"col\" class=\"num\">Done</th><th scope=\"col\" class=\"num\">Of</th><th scope=\"col\">Who and why</th></tr></thead><tbody>"
    );
    for replay in replays {
        put!(
            page,
            "<tr><th scope=\"row\">{} {}</th><td>{}</td><td>{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td>{}: {}</td></tr>",
            replay.doing.name().replace('_', " "),
            replay.no,
            replay.destination,
            replay.standing.name(),
            grouped(replay.counts.ended()),
            grouped(replay.counts.members),
            replay.who,
            replay.why
        );
    }
    put!(page, "</tbody></table></div></div>");
}
