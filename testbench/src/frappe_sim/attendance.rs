//! Frappe's hourly job that makes attendance of check-ins, and marks whoever has none absent. Pure: given the time; it
//! doesn't know HTTP. It follows `hrms/hr/doctype/shift_type/shift_type.py` in what it looks at and in which order, for
//! shifts that begin and end on one day.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, ToSpan};
use serde_json::{Value, json};

use super::site::{Log, Site, written};

/// A Shift Type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftType {
    /// Its name.
    pub name: String,
    /// When it begins.
    pub start_time: Time,
    /// When it ends, on the same day.
    pub end_time: Time,
    /// *Strictly based on Log Type in Employee Checkin*.
    pub strictly_by_log_type: bool,
    /// *Enable Auto Attendance*.
    pub enable_auto_attendance: bool,
    /// *Process Attendance After*.
    pub process_attendance_after: Date,
    /// *Last Sync of Checkin*: the job looks at no shift that ended later, and marks absent before it.
    pub last_sync_of_checkin: Option<DateTime>,
    /// *Auto Update Last Sync*: Frappe moves it by its own clock.
    pub auto_update_last_sync: bool,
}

/// What a person's day came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendance {
    /// Whose.
    pub employee: String,
    /// Which day.
    pub date: Date,
    /// What.
    pub status: Status,
}

/// The two that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There were check-ins.
    Present,
    /// There were none.
    Absent,
}

impl ShiftType {
    /// From eight to five, with auto attendance from this day on.
    pub fn day(name: &str, process_attendance_after: Date) -> ShiftType {
        ShiftType {
            name: name.into(),
            start_time: Time::constant(8, 0, 0, 0),
            end_time: Time::constant(17, 0, 0, 0),
            strictly_by_log_type: false,
            enable_auto_attendance: true,
            process_attendance_after,
            last_sync_of_checkin: None,
            auto_update_last_sync: false,
        }
    }

    /// An hour before and after, which is the default of both fields.
    fn margin() -> Span {
        60.minutes()
    }

    /// `shift_actual_end`.
    fn actual_end(&self, day: Date) -> DateTime {
        day.to_datetime(self.end_time) + Self::margin()
    }

    /// The day whose shift a log at this time belongs to.
    pub(super) fn day_of(&self, time: DateTime) -> Option<Date> {
        let day = time.date();
        let start = day.to_datetime(self.start_time) - Self::margin();
        (start <= time && time <= self.actual_end(day)).then_some(day)
    }

    /// As `/api/resource` shows it.
    pub(super) fn document(&self) -> Value {
        json!({
            "doctype": "Shift Type",
            "name": self.name,
            "enable_auto_attendance": u8::from(self.enable_auto_attendance),
            "auto_update_last_sync": u8::from(self.auto_update_last_sync),
            "last_sync_of_checkin": self.last_sync_of_checkin.map(written),
        })
    }

    /// `update_last_sync_of_checkin`: past the end of today's shift, it is complete, whatever is still on its way.
    fn update_by_itself(&mut self, now: DateTime) {
        let end = self.actual_end(now.date());
        if self.enable_auto_attendance
            && self.auto_update_last_sync
            && end < now
            && self.last_sync_of_checkin.is_none_or(|last| last < end)
        {
            self.last_sync_of_checkin = Some(end + 1.minute());
        }
    }
}

impl Attendance {
    /// As `/api/resource` would show it.
    pub(super) fn document(&self) -> Value {
        let status = match self.status {
            Status::Present => "Present",
            Status::Absent => "Absent",
        };
        json!({ "employee": self.employee, "attendance_date": self.date.to_string(), "status": status })
    }
}

impl Site {
    /// What the scheduler does every hour.
    pub fn hourly(&mut self, now: DateTime) {
        for at in 0..self.shift_types.len() {
            self.shift_types[at].update_by_itself(now);
            let shift = self.shift_types[at].clone();
            if let Some(last_sync) = shift.last_sync_of_checkin.filter(|_| shift.enable_auto_attendance) {
                self.process_auto_attendance(&shift, last_sync);
                self.mark_absent(&shift, last_sync);
            }
        }
    }

    /// `process_auto_attendance`: logs of shifts that ended before the last sync, by employee and day.
    fn process_auto_attendance(&mut self, shift: &ShiftType, last_sync: DateTime) {
        let assigned = self.assigned(shift);
        let day_of = |log: &Log| {
            let day = shift.day_of(log.time)?;
            let due = day >= shift.process_attendance_after && shift.actual_end(day) < last_sync;
            (due && assigned.contains(&log.employee)).then_some(day)
        };
        for at in 0..self.logs.len() {
            let log = &self.logs[at];
            if log.skip_auto_attendance || log.attendance.is_some() {
                continue;
            }
            let Some(day) = day_of(log) else { continue };
            let employee = log.employee.clone();
            let name = format!("HR-ATT-{employee}-{day}");
            let already = self.logs.iter().any(|other| other.attendance.as_ref() == Some(&name));
            let marked = self.attendance.iter().any(|a| a.employee == employee && a.date == day);
            if marked && !already {
                // `mark_attendance_and_link_log`: "If attendance is already present for the given date, the logs are
                // marked as skipped".
                self.logs[at].skip_auto_attendance = true;
                continue;
            }
            if !marked {
                self.attendance.push(Attendance { employee, date: day, status: Status::Present });
            }
            self.logs[at].attendance = Some(name);
        }
    }

    /// `mark_absent_for_dates_with_no_attendance`, up to the shift a day before the last sync.
    fn mark_absent(&mut self, shift: &ShiftType, last_sync: DateTime) {
        let until = last_sync - 1.day();
        for employee in self.assigned(shift) {
            let mut day = shift.process_attendance_after;
            while day.to_datetime(shift.start_time) <= until {
                if !self.attendance.iter().any(|a| a.employee == employee && a.date == day) {
                    let employee = employee.clone();
                    self.attendance.push(Attendance { employee, date: day, status: Status::Absent });
                }
                day = day.tomorrow().expect("a day of this century");
            }
        }
    }

    fn assigned(&self, shift: &ShiftType) -> Vec<String> {
        let is_assigned = |employee: &&super::site::Employee| {
            employee.active && employee.shift.as_ref() == Some(&shift.name)
        };
        self.employees.iter().filter(is_assigned).map(|employee| employee.name.clone()).collect()
    }
}
