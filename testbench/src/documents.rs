//! Finds the commands that our documents tell people to type. Pure, and knows neither program: whoever has a command line
//! holds them against it.
//!
//! A command stands in a block of code, alone in a line or between `|`, `&&` and `;`, behind `sudo` or `docker compose exec`;
//! or in running text between backticks, where it may be a part of one; or in a table whose first heading is `` `PROGRAM …` ``,
//! where the first words of a row may be left out: `` `keys create`, `status` ``.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A command that is written somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub file: PathBuf,
    /// In which line of it.
    pub line: usize,
    /// What follows the program's name: several ways to read it, of which one is to be right.
    pub readings: Vec<Vec<String>>,
    /// Whether it is to be typed as it stands; otherwise it may lack what a program needs, or say `NAME` for one.
    pub is_whole: bool,
}

/// What people read before they type: all but decisions, which tell of the past.
///
/// # Errors
///
/// When the folders cannot be read.
pub fn documents(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/evidence", "packaging", "packaging/compose", "packaging/container"] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The commands of `program` in all of them.
///
/// # Errors
///
/// When one cannot be read.
pub fn commands(program: &str, root: &Path) -> io::Result<Vec<Written>> {
    let mut all = Vec::new();
    for file in documents(root)? {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_owned();
        all.extend(in_text(program, &text).into_iter().map(|found| Written { file: name.clone(), ..found }));
    }
    Ok(all)
}

/// The commands of `program` in a Markdown text.
fn in_text(program: &str, text: &str) -> Vec<Written> {
    let mut found = Vec::new();
    let mut fence: Option<String> = None;
    let mut table_of_verbs = false;
    let mut continued = String::new();
    // Whether a line begins between backticks.
    let mut in_span = false;
    for (number, line) in (1..).zip(text.lines()) {
        let is_code = if let Some(info) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(info.trim().to_owned()) };
            continue;
        } else {
            match fence.as_deref() {
                Some("text" | "json" | "toml" | "http" | "yaml") => continue,
                Some(_) => true,
                None => line.starts_with("    "),
            }
        };
        let mut add = |readings: Vec<Vec<String>>, is_whole| {
            found.push(Written { file: PathBuf::new(), line: number, readings, is_whole });
        };
        if is_code {
            continued.push_str(line.trim());
            if let Some(open) = continued.strip_suffix('\\') {
                continued = open.to_owned();
                continue;
            }
            for words in simple_commands(&std::mem::take(&mut continued)) {
                if let Some(words) = of_program(program, &words) {
                    let is_whole = !words.iter().any(|word| is_placeholder(word));
                    add(vec![before_dots(&words)], is_whole);
                }
            }
            continue;
        }
        in_span &= !line.is_empty();
        let spans = spans(line, in_span);
        in_span ^= line.matches('`').count() % 2 == 1;
        if line.starts_with('|') && spans.first().is_some_and(|span| *span == format!("{program} …")) {
            table_of_verbs = true;
            continue;
        }
        table_of_verbs &= line.starts_with('|');
        if table_of_verbs {
            let cell = line[1..].split('|').next().unwrap_or_default();
            let mut before: Vec<String> = Vec::new();
            for span in self::spans(cell, false) {
                let words: Vec<String> = span.split_whitespace().map(str::to_owned).collect();
                // `status` after `keys create` is `keys status`.
                let parent = before.iter().take(before.len().saturating_sub(1)).cloned();
                let short: Vec<String> = parent.chain(words.iter().cloned()).collect();
                add(vec![words.clone(), short.clone()], false);
                let is_verb = |word: &String| !word.starts_with('-');
                let is_short = before.len() > words.iter().filter(|word| is_verb(word)).count();
                before = if is_short { short } else { words };
                before.retain(is_verb);
            }
        } else {
            for span in spans {
                for words in simple_commands(span) {
                    add_part(program, &words, &mut add);
                }
            }
        }
    }
    found
}

fn add_part(program: &str, words: &[String], add: &mut impl FnMut(Vec<Vec<String>>, bool)) {
    let words = of_program(program, words).map(|words| before_dots(&words)).unwrap_or_default();
    // The name alone is the program itself, or the folder of that name.
    if !words.is_empty() {
        add(vec![words], false);
    }
}

/// What is said before it is left to the reader.
fn before_dots(words: &[String]) -> Vec<String> {
    words.iter().take_while(|word| *word != "…").cloned().collect()
}

/// `NAME`, `…`, `FILE.csv`: something else is to be typed there.
fn is_placeholder(word: &str) -> bool {
    let capitals = word.chars().take_while(char::is_ascii_uppercase).count();
    word.contains('…') || capitals >= 3
}

/// What stands between backticks, of which one may have been opened in a line before.
fn spans(line: &str, is_open: bool) -> Vec<&str> {
    line.split('`').skip(usize::from(!is_open)).step_by(2).collect()
}

/// The arguments, if these words start `program`: directly, as somebody else, or inside of a container.
fn of_program(program: &str, words: &[String]) -> Option<Vec<String>> {
    let mut words = words.iter().map(String::as_str).peekable();
    loop {
        match words.next()? {
            "sudo" | "exec" | "env" | "time" => {}
            "-u" | "-g" => {
                words.next();
            }
            "docker" if words.next_if_eq(&"compose").is_some() => {
                words.find(|word| matches!(*word, "exec" | "run"))?;
                while words.next_if(|word| word.starts_with('-')).is_some() {}
                words.next();
            }
            word if word.split_once('=').is_some_and(|(name, _)| is_variable(name)) => {}
            word if Path::new(word).file_name().is_some_and(|name| name == program) => {
                return Some(words.map(str::to_owned).collect());
            }
            _ => return None,
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// A line as a shell would take it apart: commands, each of words. Redirections and comments are left out.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let (mut quote, mut depth, mut to_file) = (None, 0_u32, false);
    let end = |word: &mut Option<String>, to_file: &mut bool, commands: &mut Vec<Vec<String>>| {
        if let Some(word) = word.take()
            && !std::mem::take(to_file)
            && let Some(command) = commands.last_mut()
        {
            command.push(word);
        }
    };
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, c) if depth > 0 => word.get_or_insert_default().push(c),
            (None, '#') if word.is_none() => break,
            (None, '>' | '<') => {
                word = word.filter(|word| word != "2");
                end(&mut word, &mut to_file, &mut commands);
                to_file = true;
            }
            (None, '|' | '&' | ';') => {
                end(&mut word, &mut to_file, &mut commands);
                commands.push(Vec::new());
            }
            (None, c) if c.is_whitespace() => end(&mut word, &mut to_file, &mut commands),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    end(&mut word, &mut to_file, &mut commands);
    commands.retain(|command| !command.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, Vec<String>, bool)> {
        let all = in_text("cloud-ingest", text).into_iter();
        all.map(|w| (w.line, w.readings.iter().map(|words| words.join(" ")).collect(), w.is_whole)).collect()
    }

    #[test]
    fn commands_are_found_in_blocks_of_code_as_a_shell_would_read_them() {
        let text = "\
```sh
sudo -u cloud-ingest cloud-ingest store backup --out \"/a b/$(date +%F).db\"   # every day
cloud-ingest store roles --service x | psql -U owner > out.sql && cloud-ingest ledger
cloud-ingest enroll-token create \\
  --batch doors.csv > tokens.csv
docker compose exec -T cloud-ingest cloud-ingest health --live
CLOUD=1 /usr/bin/cloud-ingest controllers get NAME
echo cloud-ingest
```

    cloud-ingest serve

```toml
cloud-ingest = 1
```
";
        assert_eq!(
            found(text),
            [
                (2, vec!["store backup --out /a b/$(date +%F).db".into()], true),
                (3, vec!["store roles --service x".into()], true),
                (3, vec!["ledger".into()], true),
                (5, vec!["enroll-token create --batch doors.csv".into()], true),
                (6, vec!["health --live".into()], true),
                (7, vec!["controllers get NAME".into()], false),
                (11, vec!["serve".into()], true),
            ]
        );
    }

    #[test]
    fn commands_are_found_in_text_and_in_tables_of_verbs() {
        let text = "\
Run `cloud-ingest ca init` as `cloud-ingest`, then `cloud-ingest
ca activate`, or `cloud-ingest ca retire`.

| `cloud-ingest …` | |
|---|---|
| `keys create`, `status` | keys, `not this` |
| `replay`, `replay list`, `show` | |

| `keys nothing` | |
";
        assert_eq!(
            found(text),
            [
                (1, vec!["ca init".into()], false),
                (2, vec!["ca retire".into()], false),
                (6, vec!["keys create".into(), "keys create".into()], false),
                (6, vec!["status".into(), "keys status".into()], false),
                (7, vec!["replay".into(), "replay".into()], false),
                (7, vec!["replay list".into(), "replay list".into()], false),
                (7, vec!["show".into(), "replay show".into()], false),
            ]
        );
    }
}
