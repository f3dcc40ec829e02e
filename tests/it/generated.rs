//! The generated code is what Thrift's compiler makes of idl/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_generated_code_is_that_of_the_interface() {
    let fresh = tempfile::tempdir().expect("a folder");
    run(Command::new(format!("{PROJECT}/gen/regenerate")).arg(fresh.path()));
    for language in ["rs", "php"] {
        let committed = format!("{PROJECT}/gen/{language}");
        run(Command::new("diff").arg("--recursive").arg(committed).arg(fresh.path().join(language)));
    }
}

/// Forms of generated code that differ from the plain one of their language.
const FORMS: [&str; 7] =
    ["js:node", "js:node,es6", "js:node,ts", "js:jquery", "py:enum,slots", "py:twisted", "php:oop"];

/// What parses or loads files of a language, where it is installed, by how their names end. What is imported needs
/// Thrift's library, and is only compiled without it.
const LOADERS: [(&str, &str, &[&str]); 6] = [
    ("js", "node", &["--check"]),
    ("py", "python3", &["-m", "py_compile"]),
    ("php", "php", &["-l"]),
    ("go", "gofmt", &["-e"]),
    ("rb", "ruby", &["-c"]),
    ("lua", "luac", &["-p"]),
];

const IMPORT: &str = "
import importlib.util, sys
if importlib.util.find_spec('thrift'):
    import roster.Roster, roster.ttypes
";

#[test]
fn the_interfaces_make_sense_in_every_language_of_the_compiler() {
    let languages = languages();
    assert!(languages.len() > 20 && languages.iter().any(|language| language == "js"), "{languages:?}");
    for form in languages.iter().map(String::as_str).chain(FORMS) {
        let folder = tempfile::tempdir().expect("a folder");
        for interface in ["roster", "zk_data"] {
            let interface = format!("{PROJECT}/idl/{interface}.thrift");
            run(Command::new("thrift").arg("-out").arg(folder.path()).args(["--gen", form, &interface]));
        }
        let files = files(folder.path());
        assert!(!files.is_empty(), "{form}");
        for (ending, program, arguments) in LOADERS {
            let sources = files.iter().filter(|file| file.extension().is_some_and(|found| found == ending));
            if is_there(program) {
                sources.for_each(|file| run(Command::new(program).args(arguments).arg(file)));
            }
        }
        if form.starts_with("py") && !form.contains("twisted") && is_there("python3") {
            run(Command::new("python3").args(["-c", IMPORT]).current_dir(folder.path()));
        }
    }
}

/// The languages that the compiler knows, as it lists them.
fn languages() -> Vec<String> {
    let help = Command::new("thrift").arg("--help").output().expect("the compiler starts");
    let help = [help.stdout, help.stderr].concat();
    let entry = |line: &str| Some(line.strip_prefix("  ")?.split_once(" (")?.0.to_owned());
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    String::from_utf8_lossy(&help).lines().filter_map(entry).filter(is_name).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn run(command: &mut Command) {
    let output = command.output().expect("the command starts");
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}; run `make gen`?\n{told}{wrong}");
}
