//! Keys and certificate as the loop sees them: they come from the renewal and hold at once. Knows no file and no server.

use tokio::sync::oneshot;

use super::{Agent, refuse};
use crate::control::Response;
use crate::enrolment::folder::RecordKey;
use crate::renewal_task::News;

impl Agent {
    pub(super) fn renewal_told(&mut self, news: News) {
        match news {
            News::Identity(identity) => self.identity = *identity,
            News::Problem(Some(problem)) => {
                self.problems.insert("certificate", problem);
            }
            News::Problem(None) => {
                self.problems.remove("certificate");
            }
        }
    }

    pub(super) fn renew(&self, new_record_key: bool, answer: oneshot::Sender<Response>) {
        let record = if new_record_key { RecordKey::New } else { RecordKey::Same };
        match &self.renewal {
            Some(renewal) => renewal.ask(record, answer),
            None => refuse(
                Some(answer),
                "this controller was provisioned by hand: its keys are the files that the configuration names. `edge-agent enroll` gets them from the cloud".into(),
            ),
        }
    }
}
