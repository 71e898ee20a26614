//! The layers of the settings, their faults and their text.

use super::*;

fn faults(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
    let read = Config::read(Some(file), environment.iter().copied(), flags.iter().copied());
    read.unwrap_err().iter().map(Fault::to_string).collect()
}

#[test]
fn the_last_layer_with_a_value_wins() {
    let file = "lease = '10s'\nheartbeat = 20\nshards = 1\nlisten = ['[::1]:1', '127.0.0.1:2']";
    let environment = [("BELLWIRE_HEARTBEAT", "30s"), ("BELLWIRE_SHARDS", "2"), ("HOME", "/")];
    let config = Config::read(Some(file), environment, [("shards", "3")]).unwrap();
    assert_eq!(config.lease, Duration::from_secs(10));
    assert_eq!(config.heartbeat, Duration::from_secs(30));
    assert_eq!(config.shards, 3);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(Config::read(None, [], []), Ok(Config::default()));
}

#[test]
fn what_a_handler_finds_in_its_environment_sets_nothing() {
    let environment = NOT_SETTINGS.map(|key| format!("{VARIABLE_PREFIX}{key}"));
    let environment = environment.iter().map(|name| (name.as_str(), "x"));
    assert_eq!(Config::read(None, environment, []), Ok(Config::default()));
}

/// A Service of Kubernetes that is named `bellwire` puts its address into the environment of each pod, and the hub
/// refused to start there.
#[test]
fn foreign_variables_are_listed_and_refuse_nothing() {
    let environment = [
        ("BELLWIRE_SERVICE_PORT", "8888"),
        ("BELLWIRE_PORT", "tcp://10.0.0.1:8888"),
        ("BELLWIRE_LAESE", "30s"),
        ("BELLWIRE_LEASE", "20s"),
        ("BELLWIRE_HUB", "http://x"),
    ];
    let loaded = Config::load(None, environment, []).unwrap();
    let foreign = ["BELLWIRE_LAESE", "BELLWIRE_PORT", "BELLWIRE_SERVICE_PORT"];
    assert_eq!(loaded.unknown_variables, foreign);
    assert_eq!(loaded.config.lease, Duration::from_secs(20));
    assert!(loaded.is_given("lease") && !loaded.is_given("connections_max"));
    // What is a setting is still judged, and so is a key of the file or a flag.
    assert_eq!(faults("laese = '1s'", &[("BELLWIRE_LEASE", "x")], &[("laese", "1s")]).len(), 3);
}

#[test]
fn every_fault_of_every_layer_is_reported_with_its_key() {
    let file = "lease = 'soon'\nstream_max = '9s'\nqueue_max = 0\ncolour = 'red'\nopen = 'yes'\nheartbeat = 1.5\n\
        cors_origins = ['*']\nallowed_hosts = ['a:80']\ntls_cert = 'hub.pem'\n[tls]\ncert = 'x'\n";
    let faults =
        faults(file, &[("BELLWIRE_DATA_BYTES_MAX", "1048577")], &[("listen", "localhost")]);
    let expected = [
        "lease is \"soon\", but it is from 1s to 1h",
        "queue_max is \"0\", but it is a whole number from 1 to 100000",
        "stream_max is \"9s\", but it is 0s (never) or from 10s to 7d",
        "colour is not a setting",
        "open is \"yes\", but it is true or false",
        "heartbeat is \"1.5\", but it is from 5s to 10m",
        "tls is not a setting",
        "cors_origins is \"*\", but it is origins of web pages, scheme://host[:port] each, as in \
         https://ops.example.com",
        "allowed_hosts is \"a:80\", but it is host names without ports, as in hub.example.com",
        "BELLWIRE_DATA_BYTES_MAX is \"1048577\", but it is a number of bytes from 1 to 1048576",
        "--listen is \"localhost\", but it is one or more of [http://|https://]address:port, as in \
         127.0.0.1:8888, http://[::] (port 80) or https://0.0.0.0 (port 443)",
        "tls_cert is set without tls_key",
    ];
    for line in expected {
        assert!(faults.iter().any(|fault| fault == line), "{line}\nnot in {faults:#?}");
    }
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
}

#[test]
fn a_file_that_is_not_toml_is_reported_by_its_line_and_the_other_layers_are_still_checked() {
    let faults = faults("lease = '1s'\nlease = '2s'\n", &[], &[("lease", "x")]);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("line 2 "), "{faults:?}");
}

#[test]
fn effective_settings_are_shown_as_text_that_parses() {
    let mut config = Config::default();
    config.listen.push("[::1]:0".parse().unwrap());
    config.listen.push("http://0.0.0.0".parse().unwrap());
    config.stream_max = Some(Duration::from_secs(1800));
    config.tls = Some(TlsFiles { cert: "hub.pem".into(), key: "a \"quoted\" 'key'".into() });
    config.cors_origins = vec!["https://ops.example.com".parse().unwrap()];
    config.allowed_hosts = vec!["a.example".to_owned(), "b.example".to_owned()];
    let file = config.to_toml();
    assert!(file.contains("stream_max = \"30m\"\n"), "{file}");
    for config in [Config::default(), config] {
        let shown: Vec<_> = config.effective().collect();
        let flags = shown.iter().map(|(key, value)| (*key, value.as_str()));
        assert_eq!(Config::read(None, [], flags), Ok(config.clone()));
        let file = config.to_toml();
        assert_eq!(Config::read(Some(&file), [], []), Ok(config), "{file}");
    }
}

#[test]
fn the_url_of_keys_is_https_or_this_machine_and_there_is_no_file_beside_it() {
    let jwt = |lines: &str| format!("jwt_issuer = 'i'\njwt_audience = 'a'\n{lines}");
    let read = |lines: &str| Config::read(Some(&jwt(lines)), [], []);
    for good in [
        "jwt_keys_url = 'https://id.example/jwks'\njwt_keys_ca = 'ca.pem'",
        "jwt_keys_url = 'http://localhost:8080/jwks'",
        "jwt_keys_url = 'http://[::1]/jwks'",
        "jwt_keys_url = 'http://id.example/jwks'\njwt_keys_plain = true",
    ] {
        let config = read(good).unwrap();
        let file = config.to_toml();
        assert_eq!(Config::read(Some(&file), [], []), Ok(config), "{file}");
    }
    for (bad, expected) in [
        ("jwt_keys_url = 'http://id.example/jwks'", "jwt_keys_plain = true"),
        ("jwt_keys_url = 'https://u:p@id.example/'", "without a user or password"),
        ("jwt_keys_url = 'https://id.example:x/'", "https:// URL"),
        ("jwt_keys_url = 'id.example'", "https:// URL"),
        ("jwt_keys_url = 'ftp://id.example/'", "https:// URL"),
        ("jwt_keys_url = 'https://id.example/'\njwt_keys = 'k.json'", "remove one of them"),
        ("jwt_keys = 'k.json'\njwt_keys_ca = 'ca.pem'", "which is not set"),
        ("", "is set without jwt_keys"),
    ] {
        let faults = faults(&jwt(bad), &[], &[]);
        assert!(faults.len() == 1 && faults[0].contains(expected), "{bad}: {faults:?}");
    }
    // A fault of its neighbour does not stand for the key that is missing.
    for (bad, key) in
        [("jwt_keys_plain = 'maybe'", "jwt_keys_plain"), ("jwt_keys_ca = 1.5", "jwt_keys_ca")]
    {
        let faults = faults(&jwt(bad), &[], &[]);
        assert!(faults.iter().any(|fault| fault.starts_with(key)), "{bad}: {faults:?}");
        let missing = |fault: &String| fault.ends_with("is set without jwt_keys");
        assert!(faults.iter().any(missing), "{bad}: {faults:?}");
    }
}

#[test]
fn the_scope_of_a_certificate_is_of_labels_alone_as_that_of_a_token() {
    let file = |select: &str| {
        format!(
            "[[listener]]\naddress = 'https://127.0.0.1:8443'\nclient_ca = 'ca.pem'\n\
             [[listener.client]]\nname = 'uri:urn:example:ops'\nis = 'operator'\nselect = '{select}'\n"
        )
    };
    // A device states its facts itself, and would put itself into the scope.
    for bad in ["facts.os=linux", "site=lyon,facts.os", ""] {
        let faults = faults(&file(bad), &[], &[]);
        let named = faults.iter().any(|fault| fault.contains("a selector of labels alone"));
        assert!(named, "{bad}: {faults:?}");
    }
    let good = Config::read(Some(&file("site=lyon")), [], []);
    let faults = good.err().map_or_else(String::new, |faults| faults.to_string());
    assert!(!faults.contains("selector"), "{faults}");
}
