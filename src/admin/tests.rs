//! What the admin server promises to probes and to Prometheus.

use axum::http::HeaderValue;

use super::is_this_machine;

#[test]
fn only_addresses_of_this_machine_are_asked() {
    for host in ["127.0.0.1", "127.0.0.1:9191", "[::1]:9191", "localhost", "LOCALHOST:1", "127.9.9.9"] {
        assert!(is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
    for host in
        ["", "example.org", "127.0.0.1.example.org", "localhost.example.org:9191", "0.0.0.0", "10.0.0.1:80", "::1"]
    {
        assert!(!is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
}
