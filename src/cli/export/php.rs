//! PHP source: values as exact literals that no name and no data can break out of.

use serde_json::{Number, Value};

/// An array under construction, inside `depth` others.
pub(super) struct Array<'o> {
    out: &'o mut Vec<u8>,
    depth: usize,
}

/// A file that returns the array that `fill` fills.
pub(super) fn file(fill: impl FnOnce(&mut Array<'_>)) -> Vec<u8> {
    let mut out = b"<?php\n\n// Written by `roster export`.\nreturn ".to_vec();
    array(&mut out, 0, fill);
    out.extend(b";\n");
    out
}

impl Array<'_> {
    /// An entry with a text or bytes.
    pub(super) fn string(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        string(self.out, bytes);
        self.end();
    }

    /// An entry with another array.
    pub(super) fn array(&mut self, key: &str, fill: impl FnOnce(&mut Array<'_>)) {
        self.key(key);
        array(self.out, self.depth, fill);
        self.end();
    }

    pub(super) fn value(&mut self, key: &str, to: &Value) {
        self.key(key);
        value(self.out, self.depth, to);
        self.end();
    }

    fn indent(&mut self) {
        self.out.resize(self.out.len() + 4 * self.depth, b' ');
    }

    fn key(&mut self, key: &str) {
        self.indent();
        string(self.out, key.as_bytes());
        self.out.extend(b" => ");
    }

    fn end(&mut self) {
        self.out.extend(b",\n");
    }
}

fn array(out: &mut Vec<u8>, depth: usize, fill: impl FnOnce(&mut Array<'_>)) {
    out.extend(b"[\n");
    let mut array = Array { out, depth: depth + 1 };
    fill(&mut array);
    array.depth = depth;
    array.indent();
    out.push(b']');
}

/// In single quotes only these two are special to PHP, even in binary data.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'\'');
    for byte in bytes {
        if matches!(byte, b'\'' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'\'');
}

fn value(out: &mut Vec<u8>, depth: usize, value: &Value) {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(is) => out.extend(is.to_string().bytes()),
        Value::Number(number) => out.extend(self::number(number).bytes()),
        Value::String(text) => string(out, text.as_bytes()),
        Value::Object(entries) => array(out, depth, |array| {
            entries.iter().for_each(|(key, value)| array.value(key, value));
        }),
        Value::Array(items) => array(out, depth, |array| {
            for item in items {
                array.indent();
                self::value(array.out, array.depth, item);
                array.end();
            }
        }),
    }
}

fn number(number: &Number) -> String {
    match (number.as_i64(), number.as_f64()) {
        // PHP parses the minus as an operator, and the number after it would overflow.
        (Some(i64::MIN), _) => "PHP_INT_MIN".into(),
        (Some(integer), _) => integer.to_string(),
        (None, float) => format!("{:?}", float.unwrap_or(f64::NAN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::process::Command;

    /// What PHP reads from a file.
    fn required(source: &[u8], print: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("export.php");
        std::fs::write(&path, source).expect("written");
        let code = format!("ini_set('serialize_precision', '-1'); $r = require '{}'; {print}", path.display());
        let output = Command::new("php").args(["-r", &code]).output().expect("php");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn hostile_keys_and_data_come_back_as_they_went() {
        let all: Vec<u8> = (0..=255).collect();
        let hostile: Vec<&[u8]> = vec![
            b"",
            b"'",
            b"\\",
            b"\\'",
            b"\\\\'); system('id'); //",
            b"'; exit(1); '",
            b"<?php exit(1); ?>",
            b"?>",
            b"*/ ?> <?= exit(1) ?>",
            b"$x {$x} ${x} \\n \\0 \\x41",
            b"\0\0",
            b"\r\n\t",
            b"__halt_compiler();",
            b"\xff\xfe\xc3\x28 not UTF-8",
            "日本 ü".as_bytes(),
            &all,
        ];
        let keys: Vec<String> = hostile.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        let source = file(|array| {
            for (key, bytes) in keys.iter().zip(&hostile) {
                array.string(key, bytes);
            }
        });
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let expected: String =
            keys.iter().zip(&hostile).map(|(key, bytes)| format!("{}={};", hex(key.as_bytes()), hex(bytes))).collect();
        let print = "foreach ($r as $k => $v) { echo bin2hex($k), '=', bin2hex($v), ';'; }";
        assert_eq!(required(&source, print), expected);
        let again = "eval('$again = ' . var_export($r, true) . ';'); echo json_encode($again === $r);";
        assert_eq!(required(&source, again), "true");
    }

    #[test]
    fn values_come_back_as_they_went() {
        let document = json!({
            "": null, "bools": [true, false], "text": "it's", "deep": {"a": [[], {}, [{"b": 1}]]},
            "numbers": [0, -1, i64::MIN, i64::MAX, 1.5, -0.1, 1e300, 1e-7, 2.0],
        });
        let source = file(|array| array.value("all", &document));
        // How PHP writes an empty array and a whole float.
        let expected = document.to_string().replace("{}", "[]").replace("1e+300", "1.0e+300").replace("1e-7", "1.0e-7");
        let print = "echo json_encode($r['all'], JSON_PRESERVE_ZERO_FRACTION | JSON_UNESCAPED_SLASHES);";
        assert_eq!(required(&source, print), expected);
        assert_eq!(
            required(&file(|array| array.value("n", &json!(u64::MAX))), "var_dump($r['n'] === 2 ** 64);"),
            "bool(true)\n"
        );
    }
}
