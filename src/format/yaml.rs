//! YAML of rules. Everything that its writer decides is bounded: its bytes, its levels, and what its aliases repeat.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value as Json};

use super::{Undecodable, json};

/// The most bytes of a document.
pub(super) const MAX_BYTES: usize = 16 << 10;

/// The most values and bytes of texts, with what aliases repeat.
const MAX_SIZE: usize = 4 * MAX_BYTES;

/// The document in the data, whose scalars are texts, or null; null if there is none. If a key appears twice, the last
/// one wins.
pub(super) fn document(data: &[u8]) -> Result<Json, Undecodable> {
    if data.len() > MAX_BYTES {
        return Err(Undecodable::TooLong(MAX_BYTES));
    }
    let text = std::str::from_utf8(data).map_err(|_| Undecodable::NotUtf8)?;
    let mut reader = Reader::default();
    let mut line = 1;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Undecodable::NotYaml(error.marker().line()))?;
        line = span.start.line();
        reader.take(event).map_err(|fault| fault.unwrap_or(Undecodable::NotYaml(line)))?;
    }
    match reader.root {
        Some(root) => Ok(root),
        None if reader.has_begun => Err(Undecodable::NotYaml(line)),
        None => Ok(Json::Null),
    }
}

#[derive(Default)]
struct Reader {
    has_begun: bool,
    root: Option<Json>,
    open: Vec<Open>,
    /// What an alias stands for, and its size.
    anchors: HashMap<usize, (Json, usize)>,
    size: usize,
}

/// A list or map that has not ended.
struct Open {
    content: Content,
    anchor: usize,
    /// The size of everything before it.
    before: usize,
}

enum Content {
    List(Vec<Json>),
    /// With the key whose value follows.
    Map(Map<String, Json>, Option<String>),
}

impl Reader {
    /// Err(None): what is in this line is no YAML, or none that is read.
    fn take(&mut self, event: Event<'_>) -> Result<(), Option<Undecodable>> {
        match event {
            Event::DocumentStart(_) if self.has_begun => Err(None),
            Event::DocumentStart(_) => {
                self.has_begun = true;
                Ok(())
            }
            Event::Scalar(text, style, anchor, _) => {
                let before = self.size;
                self.grow(1 + text.len())?;
                self.finish(scalar(&text, style), anchor, before)
            }
            Event::SequenceStart(anchor, _) => self.open(Content::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.open(Content::Map(Map::new(), None), anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { content, anchor, before } = self.open.pop().ok_or(None)?;
                let value = match content {
                    Content::List(list) => Json::Array(list),
                    Content::Map(map, _) => Json::Object(map),
                };
                self.finish(value, anchor, before)
            }
            Event::Alias(anchor) => {
                // None: it is a part of what it stands for.
                let (value, size) = self.anchors.get(&anchor).ok_or(None)?;
                let (size, before) = (*size, self.size);
                if before + size > MAX_SIZE {
                    return Err(Some(Undecodable::TooManyAliases));
                }
                let value = value.clone();
                self.size += size;
                self.finish(value, 0, before)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, content: Content, anchor: usize) -> Result<(), Option<Undecodable>> {
        if self.open.len() >= json::MAX_DEPTH {
            return Err(Some(Undecodable::TooDeep));
        }
        let before = self.size;
        self.grow(1)?;
        self.open.push(Open { content, anchor, before });
        Ok(())
    }

    fn finish(&mut self, value: Json, anchor: usize, before: usize) -> Result<(), Option<Undecodable>> {
        if anchor != 0 {
            let size = self.size - before;
            self.grow(size)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(value),
            Some(Content::List(list)) => list.push(value),
            Some(Content::Map(map, key)) => match (key.take(), value) {
                (Some(key), value) => drop(map.insert(key, value)),
                // What it merges would be missing.
                (None, Json::String(text)) if text != "<<" => *key = Some(text),
                (None, _) => return Err(None),
            },
        }
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), Option<Undecodable>> {
        self.size += by;
        if self.size > MAX_SIZE { Err(Some(Undecodable::TooManyAliases)) } else { Ok(()) }
    }
}

/// As the readers of Dubbo see it, which are of YAML 1.1.
fn scalar(text: &str, style: ScalarStyle) -> Json {
    match text {
        _ if style != ScalarStyle::Plain => Json::String(text.to_owned()),
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Json::String("true".to_owned()),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Json::String("false".to_owned()),
        text => Json::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_lists_maps_texts_and_aliases() {
        let text = "---\n# a rule\nscope: service\nconfigs:\n- side: provider\n  parameters: &p {weight: 0, disabled: yes, \
            'quoted': 'no', none: ~}\n- parameters: *p\n  addresses: ['[::1]:20880', \"0.0.0.0\"]\n...\n";
        let parameters = json!({"weight": "0", "disabled": "true", "quoted": "no", "none": null});
        let expected = json!({"scope": "service", "configs": [{"side": "provider", "parameters": parameters},
            {"parameters": parameters, "addresses": ["[::1]:20880", "0.0.0.0"]}]});
        assert_eq!(document(text.as_bytes()), Ok(expected.clone()));
        assert_eq!(document(expected.to_string().as_bytes()), Ok(expected), "JSON is YAML");
        assert_eq!(document(b"a: 1\na: 2"), Ok(json!({"a": "2"})));
        for blank in ["", " \n", "# nothing\n", "---\n", "~"] {
            assert_eq!(document(blank.as_bytes()), Ok(Json::Null), "{blank:?}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [", 2),
            ("a: 1\n---\nb: 1", 2),
            ("&a [*a]", 1),
            ("a: 1\nb: *b", 2),
            ("a: 1\n? [b]\n: 1", 2),
            ("a: &a {b: 1}\nc:\n  <<: *a", 3),
            ("{---", 1),
            ("a: 'b", 1),
        ] {
            let found = document(text.as_bytes());
            assert!(matches!(found, Err(Undecodable::NotYaml(at)) if at.abs_diff(line) <= 1), "{text:?}: {found:?}");
        }
        assert_eq!(document(b"a: \xff"), Err(Undecodable::NotUtf8));
    }

    #[test]
    fn what_nests_or_repeats_itself_is_refused_at_once() {
        assert_eq!(document("a".repeat(MAX_BYTES + 1).as_bytes()), Err(Undecodable::TooLong(MAX_BYTES)));
        let deep = |times| document(format!("{}{}", "[".repeat(times), "]".repeat(times)).as_bytes());
        assert!(deep(json::MAX_DEPTH).is_ok());
        assert_eq!(deep(json::MAX_DEPTH + 1), Err(Undecodable::TooDeep));
        for endless in ["- ", "? "] {
            assert_eq!(document(endless.repeat(1_000).as_bytes()), Err(Undecodable::TooDeep), "{endless}");
        }
        for endless in ["[", "{a: ", "{? ", "&a [", "!"] {
            document(endless.repeat(1_000).as_bytes()).expect_err(endless);
        }
        let list = |name: char| format!("[{}]", vec![format!("*{name}"); 9].join(", "));
        let lines = ('b'..'z').map(|name| format!("{name}: &{name} {}\n", list(char::from(name as u8 - 1))));
        let bomb = format!("a: &a [x]\n{}", lines.collect::<String>());
        assert_eq!(document(bomb.as_bytes()), Err(Undecodable::TooManyAliases));
        let heavy = format!("a: &a {}\nb: [{}]", "x".repeat(8_000), "*a, ".repeat(1_000));
        assert_eq!(document(heavy.as_bytes()), Err(Undecodable::TooManyAliases));
    }

    #[test]
    fn what_is_cut_or_made_up_is_refused_or_read_and_nothing_worse() {
        const TOKENS: [&str; 34] = [
            "a", "-", " ", "\n", "[", "]", "{", "}", ":", ",", "?", "&a", "*a", "|", ">", "'", "\"", "#", "!", "%",
            "---", "...", "  ", "\t", "b: c", "- ", "~", "\\", "\u{e9}", "\u{feff}", "\r", "\0", "<<: ", "@",
        ];
        for seed in 0..5_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let text: String = (0..random.usize(1..60)).map(|_| TOKENS[random.usize(..TOKENS.len())]).collect();
            let _ = document(text.as_bytes());
        }
    }
}
