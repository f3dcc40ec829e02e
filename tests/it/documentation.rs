//! The pages of the documentation: what they link to is there, and what they have a reader type exists.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Ended, binary};

/// README.md is the first page: what is for one reader at one moment has a page of its own.
const MAX_README_BYTES: usize = 8 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages and their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let others = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "php/README.md"]
        .map(|name| root().join(name));
    let files = docs.filter(|file| file.extension().is_some_and(|extension| extension == "md")).chain(others);
    files.map(|file| (file.clone(), fs::read_to_string(&file).expect("a page"))).collect()
}

/// The blocks of code in a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// What is not code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

fn links(text: &str) -> Vec<String> {
    let ends = |rest: &str| rest.split_once(')').map(|(target, _)| target.to_owned());
    prose(text).split("](").skip(1).filter_map(ends).filter(|target| !target.starts_with("http")).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_within_the_documentation_leads_somewhere() {
    for (page, text) in pages() {
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if let Some(anchor) = anchor {
                let text = fs::read_to_string(&target).expect("a page");
                assert!(anchors(&text).contains(anchor), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a page");
    assert!(readme.len() <= MAX_README_BYTES, "it has {} bytes", readme.len());
    let linked: HashSet<PathBuf> = links(&readme).iter().map(|link| root().join(link)).collect();
    for (page, _) in
        pages().iter().filter(|(page, _)| !page.ends_with("README.md") || page.starts_with(root().join("php")))
    {
        assert!(linked.contains(page), "README.md has no link to {}", page.display());
    }
}

/// The rooms that ARCHITECTURE.md lists, with their floors.
fn floors() -> HashMap<String, u8> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a page");
    let room = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let floor = cells.next()?.parse().ok()?;
        Some((cells.next()?.trim_matches(['`', '/']).to_owned(), floor))
    };
    text.lines().filter_map(room).collect()
}

/// The crates that ARCHITECTURE.md lists, each with the lowest floor that uses it, and the crates that it uses.
fn crates() -> HashMap<String, (u8, Vec<String>)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a page");
    let listed = |line: &str| {
        let mut cells = line.strip_prefix("| `roster-")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let floor = cells.next()?.parse().ok()?;
        let used = cells.next()?.split('`').skip(1).step_by(2);
        Some((name, (floor, used.map(|used| used.trim_start_matches("roster-").to_owned()).collect())))
    };
    text.lines().filter_map(listed).collect()
}

/// What lies in other crates, and is a room by a line of `lib.rs`: `pub use roster_net::secret;`.
fn rooms_of_crates() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("the map");
    let lines = text.lines().filter_map(|line| line.split_once("use roster_")?.1.strip_suffix(';'));
    lines.filter_map(|line| line.rsplit([':', ' ']).next()).map(str::to_owned).collect()
}

/// The names that follow a beginning in a text: `tunnel` of `crate::tunnel::Message`.
fn names_after<'t>(text: &'t str, beginning: &str) -> impl Iterator<Item = &'t str> {
    let rests = text.split(beginning).skip(1);
    rests.filter_map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next())
}

/// What of a file is no test.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a file");
    text.split("#[cfg(test)]\nmod").next().unwrap_or_default().to_owned()
}

/// The Rust files of a room.
fn files_of(room: &Path) -> Vec<PathBuf> {
    if room.is_file() {
        return vec![room.to_owned()];
    }
    let entries = fs::read_dir(room).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|entry| files_of(&entry)).filter(|file| file.extension().is_some_and(|it| it == "rs")).collect()
}

#[test]
fn every_room_has_its_floor_and_uses_only_lower_ones() {
    let (floors, crates) = (floors(), crates());
    let rooms = fs::read_dir(root().join("src")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let of_crates = rooms_of_crates();
    let missing = of_crates.iter().find(|room| !floors.contains_key(*room));
    assert_eq!(missing, None, "ARCHITECTURE.md has no floor for it");
    let mut known = of_crates.len();
    for folder in rooms {
        let room = folder.file_stem().expect("a name").to_string_lossy().into_owned();
        // The map, the binary, and what only tests use.
        if ["lib", "main", "cli", "corpora", "mutant"].contains(&&*room) {
            continue;
        }
        let floor = floors.get(&room).unwrap_or_else(|| panic!("ARCHITECTURE.md has no floor for `{room}`"));
        known += 1;
        for file in files_of(&folder).iter().filter(|file| !file.components().any(|it| it.as_os_str() == "tests")) {
            let code = code_of(file);
            for other in names_after(&code, "crate::").filter(|other| *other != room && *other != "share") {
                let is_lower = floors.get(other).is_none_or(|of_other| of_other < floor);
                assert!(is_lower, "{} uses `{other}`, which is on no lower floor", file.display());
            }
            for other in names_after(&code, "roster_") {
                let is_lower = crates.get(other).is_none_or(|(of_other, _)| of_other <= floor);
                assert!(is_lower, "{} uses the crate `{other}`, which is for higher floors", file.display());
            }
        }
    }
    assert_eq!(known, floors.len(), "ARCHITECTURE.md has rooms that are none");
}

#[test]
fn every_crate_is_listed_and_uses_only_those_that_it_says() {
    let (crates, mut known) = (crates(), 0);
    for folder in fs::read_dir(root().join("crates")).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let (_, says) = crates.get(&name).unwrap_or_else(|| panic!("ARCHITECTURE.md does not list `roster-{name}`"));
        known += 1;
        for file in files_of(&folder.join("src")) {
            let code = code_of(&file);
            let mut used = names_after(&code, "roster_").filter(|other| *other != name && crates.contains_key(*other));
            let other = used.find(|other| !says.iter().any(|it| it == other));
            assert_eq!(other, None, "{}", file.display());
        }
    }
    assert_eq!(known, crates.len(), "ARCHITECTURE.md has crates that are none");
}

/// The names of all packages that a crate needs.
fn packages_of(name: &str) -> HashSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "-p", name, "-e", "normal", "--prefix", "none", "--no-dedupe"]).current_dir(root());
    let output = tree.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn what_others_use_needs_nothing_of_what_only_the_sidecar_needs() {
    for (crate_name, most) in [("roster-master", 60), ("roster-tunnel", 45), ("roster-client", 25)] {
        let packages = packages_of(crate_name);
        assert!(packages.contains(crate_name) && packages.len() < most, "{crate_name}: {packages:?}");
        let needless = ["roster", "lmdb-rkv", "clap", "imbl", "axum", "toml", "prometheus"];
        let found = needless.iter().find(|needless| packages.contains(**needless));
        assert_eq!(found, None, "{crate_name}");
    }
    let of_the_thrift = packages_of("roster-master").into_iter().find(|name| name.contains("thrift"));
    assert_eq!(of_the_thrift, None);
}

#[test]
fn every_setting_in_the_documentation_exists() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("roster.toml");
    let check = |arguments: &[&str], what: &str| {
        let ended = Ended::of(binary().arg("config").args(arguments));
        assert!(!ended.wrong.contains("no such key"), "{what}: {}", ended.wrong);
    };
    let mut found = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "toml") {
            fs::write(&file, block).expect("written");
            check(&["check", file.to_str().expect("text")], &format!("{}:\n{block}", page.display()));
            found += 1;
        }
        // Those of a worker that is added are keys of its own.
        let lines = text.lines().filter(|line| !line.contains("worker add"));
        let words =
            lines.flat_map(|line| line.split("--set ").skip(1)).filter_map(|rest| rest.split(['=', '`', ' ']).next());
        for key in words.map(|key| key.trim_start_matches('\'')).filter(|key| key.contains('.')) {
            check(&["show", "--set", &format!("{key}=1")], &format!("{}: {key}", page.display()));
            found += 1;
        }
    }
    assert!(found >= 6, "{found}");
}

#[test]
fn every_command_and_option_in_the_documentation_exists() {
    let mut found = 0;
    for (page, text) in pages() {
        for line in blocks(&text, "sh").into_iter().flat_map(str::lines) {
            let line = line.split("  # ").next().unwrap_or(line);
            for command in line.split("&&").flat_map(|part| part.split('|')).map(str::trim) {
                let Some(arguments) = command.strip_prefix("roster ") else { continue };
                let words: Vec<&str> = arguments.split_whitespace().collect();
                let nested = ["config", "explain", "queue", "registers", "shared", "worker"].contains(&words[0]);
                let help =
                    Ended::of(binary().args(&words[..words.len().min(1 + usize::from(nested))]).arg("--help")).text();
                let own = words.iter().take_while(|word| **word != "--").filter(|word| word.starts_with("--"));
                let mut options = own.filter_map(|word| word.split('=').next());
                assert!(options.all(|option| help.contains(option)), "{}: {command}", page.display());
                found += 1;
            }
        }
    }
    assert!(found > 20, "{found}");
}

/// The names that stand in the second column of a table as `room::name`, or `name` alone.
fn tests_of(text: &str) -> Vec<&str> {
    let rows = text.lines().filter_map(|row| row.strip_suffix(" |")?.rsplit_once("| ")).map(|(_, last)| last);
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.filter(|name| name.chars().all(|it| it.is_alphanumeric() || "_:".contains(it))).collect()
}

#[test]
fn every_test_of_what_masters_can_do_exists() {
    let mut sources = String::new();
    let mut folders: Vec<_> = ["src", "crates", "tests/it", "php/tests"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            match path.extension() {
                None if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" || extension == "php" => {
                    sources += &fs::read_to_string(path).expect("a source");
                }
                _ => {}
            }
        }
    }
    let text = fs::read_to_string(root().join("docs/masters.md")).expect("a page");
    let text = text.split("## What PHP masters can do").nth(1).and_then(|rest| rest.split("\n## ").next());
    let tests = tests_of(text.expect("the heading"));
    assert!(tests.len() > 30, "{tests:?}");
    for test in tests {
        let name = test.rsplit("::").next().unwrap_or(test);
        let is_there = ["fn ", "mod ", "function "]
            .iter()
            .any(|before| ["(", ";"].iter().any(|after| sources.contains(&format!("{before}{name}{after}"))));
        assert!(is_there, "there is no test `{test}`");
    }
}
