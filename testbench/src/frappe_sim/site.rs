//! What a Frappe site knows and how it decides: employees, check-ins, shift types, and the user who asks. Pure: given
//! the time and what is asked; it doesn't know HTTP.
//!
//! Each rule names the source that it follows. Paths are those of the public repositories `frappe/frappe` and
//! `frappe/hrms`.

use jiff::civil::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::attendance::{Attendance, ShiftType};
use super::thrown::Thrown;

/// Which code runs, as far as that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// ERPNext 13: the method is below `erpnext.hr`; a duplicate is the same employee and time, to the microsecond,
    /// whatever the direction.
    V13,
    /// Frappe HR 14: below `hrms.hr`; the direction counts, and so do microseconds.
    V14,
    /// Frappe HR 15 and later: `before_validate` cuts microseconds.
    V15,
}

impl Version {
    /// The method that adds a log.
    pub fn method(self) -> &'static str {
        match self {
            Version::V13 => {
                "erpnext.hr.doctype.employee_checkin.employee_checkin.add_log_based_on_employee_field"
            }
            Version::V14 | Version::V15 => {
                "hrms.hr.doctype.employee_checkin.employee_checkin.add_log_based_on_employee_field"
            }
        }
    }
}

/// What a user may do. Roles as in `employee_checkin.json` and `shift_type.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes check-ins at permission level 1, and shift types.
    HrUser,
    /// Creates check-ins, but at level 1 (the time) may only read.
    Employee,
    /// Like [`Role::Employee`], and may delete nothing: a role that somebody made up.
    LateAndStuck,
    /// May create check-ins at all levels and read nothing: another such role.
    WriteOnly,
    /// May nothing here.
    None,
}

/// The user who integrates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// `api_key:api_secret`.
    pub token: String,
    /// What it may.
    pub role: Role,
    /// In which language Frappe speaks to it.
    pub language: String,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Employee {
    /// `HR-EMP-00001`.
    pub name: String,
    /// What devices know.
    pub attendance_device_id: String,
    /// Whether the person works here.
    pub active: bool,
    /// The shift type that the person is assigned to.
    pub shift: Option<String>,
}

/// An Employee Checkin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `EMP-CKIN-03-2026-000001`.
    pub name: String,
    /// Whose.
    pub employee: String,
    /// When, as told, or not.
    pub time: DateTime,
    /// `IN`, `OUT` or nothing.
    pub log_type: Option<String>,
    /// Where.
    pub device_id: Option<String>,
    /// Auto attendance does not look at it.
    pub skip_auto_attendance: bool,
    /// The attendance that it led to.
    pub attendance: Option<String>,
}

/// A site's data and settings.
#[derive(Clone, Debug)]
pub struct Site {
    /// Which code runs.
    pub version: Version,
    /// Who asks.
    pub user: User,
    /// Who works here.
    pub employees: Vec<Employee>,
    /// Their logs, in the order in which they were stored.
    pub logs: Vec<Log>,
    /// Their shifts.
    pub shift_types: Vec<ShiftType>,
    /// What was made of the logs.
    pub attendance: Vec<Attendance>,
    /// HR Settings: *Allow Geolocation Tracking*.
    pub tracks_geolocation: bool,
    /// The number of the next log; put back, it is a naming series after a restored backup.
    pub next_log: u64,
}

/// The arguments of `add_log_based_on_employee_field`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NewLog {
    pub(super) employee_field_value: Option<String>,
    pub(super) timestamp: Option<String>,
    pub(super) device_id: Option<String>,
    pub(super) log_type: Option<String>,
    #[serde(default)]
    pub(super) skip_auto_attendance: u8,
    pub(super) employee_fieldname: Option<String>,
    pub(super) latitude: Option<f64>,
    pub(super) longitude: Option<f64>,
}

impl Default for Site {
    fn default() -> Site {
        Site {
            version: Version::V15,
            user: User {
                name: "tapline@example.com".into(),
                token: "key:secret".into(),
                role: Role::HrUser,
                language: "en".into(),
            },
            employees: Vec::new(),
            logs: Vec::new(),
            shift_types: Vec::new(),
            attendance: Vec::new(),
            tracks_geolocation: false,
            next_log: 1,
        }
    }
}

impl Site {
    /// With this many people: `HR-EMP-00001` has the device id `1`, and so on.
    pub fn with_employees(count: usize) -> Site {
        let employee = |n: usize| Employee {
            name: format!("HR-EMP-{n:05}"),
            attendance_device_id: n.to_string(),
            active: true,
            shift: None,
        };
        Site { employees: (1..=count).map(employee).collect(), ..Site::default() }
    }

    /// `hrms/hr/doctype/employee_checkin/employee_checkin.py`, up to the insert: whose log it is and whether it may be
    /// stored. Nothing is locked from here to [`Site::insert`]: that is how two pass at once.
    pub(super) fn validate(&self, new: &NewLog, now: DateTime) -> Result<Log, Thrown> {
        if matches!(self.user.role, Role::None) {
            return Err(Thrown::permission("Employee Checkin"));
        }
        let (Some(value), Some(timestamp)) = (filled(&new.employee_field_value), filled(&new.timestamp))
        else {
            return Err(Thrown::validation("'employee_field_value' and 'timestamp' are required."));
        };
        let field = new.employee_fieldname.as_deref().unwrap_or("attendance_device_id");
        let employee = match field {
            "attendance_device_id" => self.employees.iter().find(|e| e.attendance_device_id == value),
            "name" => self.employees.iter().find(|e| e.name == value),
            _ => return Err(Thrown::server("OperationalError", "Unknown column in 'where clause'")),
        };
        let Some(employee) = employee else {
            return Err(Thrown::validation(format!(
                "No Employee found for the given employee field value. '{field}': {value}"
            )));
        };
        let time = self.time_of(timestamp, now)?;
        if !employee.active {
            let message =
                format!("Transactions cannot be created for an Inactive Employee {}.", employee.name);
            return Err(Thrown { class: "InactiveEmployeeStatusError", ..Thrown::validation(message) });
        }
        let log = Log {
            name: String::new(),
            employee: employee.name.clone(),
            time,
            log_type: filled(&new.log_type).map(str::to_owned),
            device_id: new.device_id.clone(),
            skip_auto_attendance: new.skip_auto_attendance == 1,
            attendance: None,
        };
        if let Some(other) = self.logs.iter().find(|other| self.is_duplicate(other, &log)) {
            let name = &other.name;
            return Err(Thrown::validation(format!(
                "This employee already has a log with the same timestamp.<Br><a href=\"/app/employee-checkin/{name}\">{name}</a>"
            )));
        }
        self.needs_a_direction(employee, &log)?;
        if self.tracks_geolocation && (new.latitude.is_none() || new.longitude.is_none()) {
            return Err(Thrown::validation("Latitude and longitude values are required for checking in."));
        }
        Ok(log)
    }

    /// `frappe/model/base_document.py`, `reset_values_if_no_permlevel_access`: fields of a level that the user may not
    /// write get the values of a new document, and `time` has level 1 with the default *Now*. Nobody is told.
    fn time_of(&self, timestamp: &str, now: DateTime) -> Result<DateTime, Thrown> {
        let text = timestamp.replacen(' ', "T", 1);
        let Ok(time) = text.parse::<DateTime>() else {
            return Err(Thrown::validation(format!("{timestamp} is not a valid date")));
        };
        let time = match self.user.role {
            Role::HrUser | Role::WriteOnly => time,
            Role::Employee | Role::LateAndStuck | Role::None => now,
        };
        Ok(match self.version {
            Version::V13 | Version::V14 => time,
            Version::V15 => without_fraction(time),
        })
    }

    /// `validate_duplicate_log`: a query, and no unique index.
    fn is_duplicate(&self, other: &Log, log: &Log) -> bool {
        other.employee == log.employee
            && other.time == log.time
            && (self.version == Version::V13 || other.log_type == log.log_type)
    }

    /// `fetch_shift`: a shift type may ask for a direction.
    fn needs_a_direction(&self, employee: &Employee, log: &Log) -> Result<(), Thrown> {
        let shift = self.shift_types.iter().find(|shift| Some(&shift.name) == employee.shift.as_ref());
        match shift {
            Some(shift)
                if shift.strictly_by_log_type
                    && log.log_type.is_none()
                    && !log.skip_auto_attendance
                    && shift.day_of(log.time).is_some() =>
            {
                let name = &shift.name;
                Err(Thrown::validation(format!(
                    "Log Type is required for check-ins falling in the shift: {name}."
                )))
            }
            _ => Ok(()),
        }
    }

    /// Stores a log that was validated, by a naming series that may be behind.
    pub(super) fn insert(&mut self, mut log: Log) -> Result<Log, Thrown> {
        let (month, year, number) = (log.time.month(), log.time.year(), self.next_log);
        log.name = format!("EMP-CKIN-{month:02}-{year}-{number:06}");
        if self.logs.iter().any(|other| other.name == log.name) {
            let message = format!("Employee Checkin {} already exists", log.name);
            return Err(Thrown { class: "DuplicateEntryError", status: 409, message });
        }
        self.next_log += 1;
        self.logs.push(log.clone());
        Ok(log)
    }

    /// Documents as `/api/resource` gives them: these fields of those that fit all filters.
    pub(super) fn list(
        &self,
        doctype: &str,
        filters: &[Filter],
        fields: &[String],
    ) -> Result<Vec<Value>, Thrown> {
        let documents: Vec<Value> = match doctype {
            "User" if self.user.role == Role::Employee => return Err(Thrown::permission(doctype)),
            "User" => vec![json!({ "name": self.user.name, "language": self.user.language })],
            _ if matches!(self.user.role, Role::None | Role::WriteOnly) => {
                return Err(Thrown::permission(doctype));
            }
            "Employee" => self.employees.iter().map(employee_document).collect(),
            "Employee Checkin" => self.logs.iter().map(log_document).collect(),
            "Shift Type" => self.shift_types.iter().map(ShiftType::document).collect(),
            _ => return Err(Thrown::missing(format!("DocType {doctype} not found"))),
        };
        if let Some(document) = documents.first() {
            let unknown = filters.iter().map(|filter| &filter.field).chain(fields);
            if let Some(field) = unknown.into_iter().find(|field| document.get(field.as_str()).is_none()) {
                return Err(Thrown::validation(format!("Field not permitted in query: {field}")));
            }
        }
        let fits = |document: &&Value| filters.iter().all(|filter| filter.fits(document));
        let only = |document: &Value| {
            let picked = fields.iter().map(|field| (field.clone(), document[field.as_str()].clone()));
            Value::Object(picked.collect())
        };
        Ok(documents.iter().filter(fits).map(only).collect())
    }

    /// One shift type.
    pub(super) fn shift_type(&mut self, name: &str) -> Result<&mut ShiftType, Thrown> {
        if matches!(self.user.role, Role::None | Role::WriteOnly) {
            return Err(Thrown::permission("Shift Type"));
        }
        let found = self.shift_types.iter_mut().find(|shift| shift.name == name);
        found.ok_or_else(|| Thrown::missing(format!("Shift Type {name} not found")))
    }

    /// `PUT /api/resource/Shift Type/<name>`, for the one field that is ever moved.
    pub(super) fn move_last_sync(&mut self, name: &str, to: &str) -> Result<Value, Thrown> {
        let may_write = self.user.role == Role::HrUser;
        let shift = self.shift_type(name)?;
        if !may_write {
            return Err(Thrown::permission("Shift Type"));
        }
        let Ok(to) = to.replacen(' ', "T", 1).parse::<DateTime>() else {
            return Err(Thrown::validation(format!("{to} is not a valid date")));
        };
        shift.last_sync_of_checkin = Some(to);
        Ok(shift.document())
    }

    /// `DELETE /api/resource/Employee Checkin/<name>`.
    pub(super) fn delete_log(&mut self, name: &str) -> Result<(), Thrown> {
        if !matches!(self.user.role, Role::HrUser | Role::Employee) {
            return Err(Thrown::permission("Employee Checkin"));
        }
        let Some(at) = self.logs.iter().position(|log| log.name == name) else {
            return Err(Thrown::missing(format!("Employee Checkin {name} not found")));
        };
        self.logs.remove(at);
        Ok(())
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn without_fraction(time: DateTime) -> DateTime {
    time.with().subsec_nanosecond(0).build().expect("zero is a fraction")
}

/// As Frappe writes a *Datetime*: with microseconds where there are any.
pub(super) fn written(time: DateTime) -> String {
    match time.subsec_nanosecond() {
        0 => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string(),
    }
}

fn employee_document(employee: &Employee) -> Value {
    json!({
        "name": employee.name,
        "attendance_device_id": employee.attendance_device_id,
        "status": if employee.active { "Active" } else { "Inactive" },
    })
}

/// A log as answers show it.
pub(super) fn log_document(log: &Log) -> Value {
    json!({
        "doctype": "Employee Checkin",
        "name": log.name,
        "employee": log.employee,
        "time": written(log.time),
        "log_type": log.log_type,
        "device_id": log.device_id,
        "skip_auto_attendance": u8::from(log.skip_auto_attendance),
        "attendance": log.attendance,
    })
}

/// One filter of a list: `["time", "=", "2026-03-02 08:00:00"]`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Filter {
    field: String,
    operator: String,
    value: Value,
}

impl Filter {
    fn fits(&self, document: &Value) -> bool {
        let there = &document[self.field.as_str()];
        match self.operator.as_str() {
            "=" if self.field == "time" => same_time(there, &self.value),
            "=" => *there == self.value,
            "in" => self.value.as_array().is_some_and(|values| values.contains(there)),
            "is" => (there.as_str().is_some_and(|text| !text.is_empty())) == (self.value == "set"),
            _ => false,
        }
    }
}

/// The database compares times, not texts.
fn same_time(one: &Value, other: &Value) -> bool {
    let time = |value: &Value| value.as_str()?.replacen(' ', "T", 1).parse::<DateTime>().ok();
    time(one).is_some() && time(one) == time(other)
}
