//! Beside the line: the verbs for places: what they are called, where their clocks are, which way their taps go, and how
//! numbers are printed on their cards.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::deed::{Why, deed};
use super::printed::profile_named;
use super::reading::{open, open_or_make, table};
use super::{ConfigFile, Form, Output, print_json};
use crate::api::view;
use crate::clock::Clock;
use crate::directory::direction::{DOUBLE_WITHIN_S_RANGE, Policy, RESET_AFTER_H_RANGE, Rule};
use crate::directory::profile::{PROFILES, Profile};
use crate::event_store::Site;
use crate::event_store::place::AnyStore;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// All sites, with what was said of them
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: Output,
    },
    /// Add a site, or say something else of one
    Set(Set),
    /// All ways in which numbers are printed on cards
    Profiles {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Set {
    /// The site
    id: String,
    /// What people call it
    #[arg(long)]
    label: Option<String>,
    /// Its IANA time zone, such as Europe/Berlin
    #[arg(long)]
    zone: Option<String>,
    /// Which way taps go, from now on: as the reader is placed, in and out in turns where it is not, or none told
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    direction: Option<Policy>,
    /// With alternating: after so many hours without a tap the next one is "in" again
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(hours()))]
    reset_after_h: Option<u32>,
    /// With alternating: a tap within so many seconds of the one before is the same tap once more
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(seconds()))]
    double_within_s: Option<u32>,
    /// How numbers are printed on its cards; may be said more than once (`sites profiles` lists them)
    #[arg(long, value_name = "PROFILE", value_parser = profile_named)]
    card_profile: Vec<&'static Profile>,
    #[command(flatten)]
    config: ConfigFile,
}

fn hours() -> std::ops::RangeInclusive<i64> {
    i64::from(*RESET_AFTER_H_RANGE.start())..=i64::from(*RESET_AFTER_H_RANGE.end())
}

fn seconds() -> std::ops::RangeInclusive<i64> {
    i64::from(*DOUBLE_WITHIN_S_RANGE.start())..=i64::from(*DOUBLE_WITHIN_S_RANGE.end())
}

fn policy(name: &str) -> Result<Policy, String> {
    let known = Policy::from_name(&name.replace('-', "_"));
    known.ok_or_else(|| format!("use one of {}", Policy::ALL.map(Policy::name).join(", ")))
}

pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List { config, output } => list(&config, output.output),
        Verb::Set(args) => set(args),
        Verb::Profiles { output } => profiles(output.output),
    }
}

/// A site with what was said of it.
#[derive(Debug, Serialize)]
struct Said {
    #[serde(flatten)]
    site: Site,
    direction: Policy,
    reset_after_h: u32,
    double_within_s: u32,
    rule: u32,
    rule_since: Option<String>,
    card_profiles: Vec<String>,
}

impl Said {
    fn of(store: &mut AnyStore, site: Site) -> anyhow::Result<Said> {
        let rule = store.rules(&site.id)?.0.last().copied().unwrap_or(Rule::UNSAID);
        let card_profiles = store.card_profiles(&site.id)?;
        Ok(Said {
            site,
            direction: rule.policy,
            reset_after_h: rule.reset_after_h,
            double_within_s: rule.double_within_s,
            rule: rule.version,
            rule_since: (rule.version > 0).then(|| view::time(rule.from)),
            card_profiles,
        })
    }
}

fn list(config: &ConfigFile, form: Form) -> anyhow::Result<ExitCode> {
    let mut store = open(config)?;
    let sites = store.sites()?;
    let said: Vec<Said> =
        sites.into_iter().map(|site| Said::of(&mut store, site)).collect::<Result<_, _>>()?;
    if form == Form::Json {
        print_json(&said)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["site", "label", "zone", "direction", "card numbers"]);
    for said in said {
        let direction = match said.direction {
            Policy::Alternating => format!(
                "alternating since {}, in again after {} h, double within {} s",
                said.rule_since.unwrap_or_default(),
                said.reset_after_h,
                said.double_within_s
            ),
            Policy::AsPlaced | Policy::None => said.direction.name().to_owned(),
        };
        table.add_row([
            said.site.id,
            said.site.label,
            said.site.zone,
            direction,
            said.card_profiles.join(" "),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn set(args: Set) -> anyhow::Result<ExitCode> {
    let Set { id, label, zone, direction, reset_after_h, double_within_s, card_profile, config } = args;
    let loaded = config.load()?;
    let now = Clock::system().now();
    let mut store = open_or_make(&loaded, now)?;
    for site in loaded.sites() {
        store.put_site(&site)?;
    }
    let known = store.sites()?.into_iter().find(|site| site.id == id);
    let mut said: Vec<String> = Vec::new();
    if label.is_some() || zone.is_some() {
        ensure!(
            loaded.sites().all(|site| site.id != id),
            "{id} stands in the configuration: change its label and zone there"
        );
        if let Some(zone) = &zone {
            ensure!(
                TimeZone::get(zone).is_ok(),
                "{zone} is no time zone of this system: write it like Europe/Berlin"
            );
        }
        said.extend(label.iter().cloned().chain(zone.iter().cloned()));
    }
    let site = match (known, label, zone) {
        (Some(site), label, zone) => {
            Site { id, label: label.unwrap_or(site.label), zone: zone.unwrap_or(site.zone) }
        }
        (None, Some(label), Some(zone)) => Site { id, label, zone },
        (None, ..) => bail!("there is no site {id}; to add it, give it a --label and a --zone"),
    };
    if !said.is_empty() {
        store.put_site(&site)?;
    }
    if direction.is_some() || reset_after_h.is_some() || double_within_s.is_some() {
        let before = store.rules(&site.id)?.0.last().copied().unwrap_or(Rule::UNSAID);
        let wanted = Rule {
            from: now,
            policy: direction.unwrap_or(before.policy),
            reset_after_h: reset_after_h.unwrap_or(before.reset_after_h),
            double_within_s: double_within_s.unwrap_or(before.double_within_s),
            ..before
        };
        let rule = store.put_rule(&site.id, &wanted)?;
        said.push(format!("direction {} (rule {})", rule.policy.name(), rule.version));
    }
    if !card_profile.is_empty() {
        let names: Vec<&str> = card_profile.iter().map(|profile| profile.name).collect();
        store.put_card_profiles(&site.id, &names)?;
        said.push(format!("card profiles {}", names.join(" ")));
    }
    ensure!(!said.is_empty(), "nothing was said of {}: see `sites set --help`", site.id);
    let said = said.join(", ");
    store.note_deed(&deed(now, "set site", &site.id, Why(said.clone())))?;
    println!("{}: {said}", site.id);
    Ok(ExitCode::SUCCESS)
}

/// A profile for programs.
#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    what: &'static str,
    example: &'static str,
    unprinted_bits: u32,
}

fn profiles(form: Form) -> anyhow::Result<ExitCode> {
    let named = PROFILES.iter().map(|profile| Named {
        name: profile.name,
        what: profile.what,
        example: profile.example,
        unprinted_bits: profile.unprinted_bits(),
    });
    let named: Vec<Named> = named.collect();
    if form == Form::Json {
        print_json(&named)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(["profile", "what is printed", "such as", "not printed"]);
    for profile in named {
        let missing = match profile.unprinted_bits {
            0 => String::new(),
            bits => format!("{bits} bits: show each card once"),
        };
        table.add_row([profile.name, profile.what, profile.example, &missing]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
