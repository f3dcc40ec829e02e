//! What must hold for any text given as a configuration.

use super::{Config, Layers};

/// It is refused with a reason, or its effective form loads to the same.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match load(text) {
        Ok(config) => {
            let shown = config.to_toml();
            let again = load(&shown).unwrap_or_else(|diagnostics| panic!("{diagnostics}\n{shown}"));
            assert_eq!(again.to_toml(), shown);
        }
        Err(diagnostics) => assert!(!diagnostics.to_string().is_empty()),
    }
}

fn load(text: &str) -> Result<Config, super::Diagnostics> {
    Config::load(&Layers { file: Some(("/etc/roster/roster.toml".into(), text.to_owned())), ..Layers::default() })
}
