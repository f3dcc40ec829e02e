//! The generated code is what Thrift's compiler makes of idl/.

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

fn run(command: &mut Command) {
    let output = command.output().expect("the command starts");
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}; run `make gen`?\n{told}{wrong}");
}
