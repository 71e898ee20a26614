//! PAC files from where they are, a web server or the disk, and the proxies that they name.
#![cfg(feature = "pac")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use bellwire_client::path::pac::{Pac, PacError, PacFault, PacLocation};
use bellwire_proto::limits::PAC_BYTES_MAX;
use support::{Server, within};

const SCRIPT: &str = "function FindProxyForURL(url, host) {\n  \
    return 'PROXY ' + host + ':1; SOCKS s:2; HTTPS x' + url.length + ':3' }";

fn location(text: &str) -> PacLocation {
    text.parse().unwrap()
}

/// Fetches from a server that answers with this head and body.
async fn fetched(head: &str, body: &str) -> Result<Pac, PacError> {
    let server = Server::start().await;
    let location = location(&format!("pac+{}", server.url("/proxy.pac")));
    let fetching = tokio::spawn(async move { Pac::fetch(&location).await });
    let request = server.request().await;
    assert!(request.header("accept").unwrap().contains("application/x-ns-proxy-autoconfig"));
    request.answer(head, body).await;
    within("the PAC file", fetching).await.unwrap()
}

async fn proxies(pac: &Pac, url: &str) -> Vec<String> {
    let entries = pac.proxies_for(&url.parse().unwrap()).await.unwrap();
    entries.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn proxies_are_those_that_the_fetched_script_names_for_the_url() {
    let pac = fetched("200 OK\nContent-Type: application/x-ns-proxy-autoconfig", SCRIPT);
    let pac = pac.await.unwrap();
    assert_eq!(proxies(&pac, "https://hub:8443/v1?x=1").await, ["http://hub:1", "https://x17:3"]);
    assert_eq!(proxies(&pac, "http://hub/v1?x=1").await, ["http://hub:1", "https://x17:3"]);
    let answer = pac.answer_for(&"https://hub".parse().unwrap()).await.unwrap();
    assert_eq!(answer.notes, ["\"SOCKS s:2\" is skipped: SOCKS proxies are not supported"]);
}

#[tokio::test]
async fn a_file_of_this_machine_is_read_and_its_errors_name_it_and_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.pac");
    let from_file = location(&format!("pac+file://{}", file.display()));
    assert_eq!(from_file.file(), Some(file.as_path()));
    let missing = Pac::fetch(&from_file).await.unwrap_err().to_string();
    assert!(missing.contains("proxy.pac") && missing.contains("No such file"), "{missing}");
    std::fs::write(&file, SCRIPT).unwrap();
    let pac = Pac::fetch(&from_file).await.unwrap();
    assert_eq!(proxies(&pac, "http://h/").await, ["http://h:1", "https://x9:3"]);
    std::fs::write(&file, "// ours\nfunction FindProxyForURL() { return proxy }").unwrap();
    let pac = Pac::fetch(&from_file).await.unwrap();
    let error = pac.proxies_for(&"http://h/".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.line(), Some(2));
    let text = error.to_string();
    assert!(text.contains(&file.display().to_string()), "{text}");
    let expected =
        "line 2: ReferenceError: proxy is not defined; have it corrected, or set the proxy itself";
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn what_is_no_script_is_refused_for_what_it_is() {
    let too_long = "/".repeat(PAC_BYTES_MAX + 1);
    let cases: [(&str, &str, &str); 6] = [
        ("404 Not Found", "no", "answers 404 Not Found: check its URL"),
        ("302 Found\nLocation: http://wpad/new.pac", "", "if it is yours: http://wpad/new.pac"),
        ("200 OK", "<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        ("200 OK", "var x = 1", "no function FindProxyForURL"),
        ("200 OK", "function FindProxyForURL( {", "line 1: SyntaxError"),
        ("200 OK", &too_long, "longer than 1024 KiB"),
    ];
    for (head, body, expected) in cases {
        let error = fetched(head, body).await.unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let server = Server::start().await;
    let location = location(&format!("pac+{}", server.url("/proxy.pac")));
    let fetching = tokio::spawn(async move { Pac::fetch(&location).await });
    let _request = server.request().await;
    // From here on only the limit passes.
    tokio::time::pause();
    let error = within("the limit", fetching).await.unwrap().unwrap_err();
    assert!(matches!(error.fault(), PacFault::FetchTimeout), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_names_the_server() {
    let server = Server::start().await;
    let location = location(&format!("pac+{}", server.url("/proxy.pac")));
    drop(server);
    let error = within("the error", Pac::fetch(&location)).await.unwrap_err();
    assert!(matches!(error.fault(), PacFault::Fetch(_)), "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

/// An agent that tries several hubs at once evaluates one script at a time for each, and more than there are threads.
#[tokio::test]
async fn many_evaluations_at_once_all_get_their_answer() {
    let pac = Pac::parse(SCRIPT).await.unwrap();
    let answers: Vec<_> = (0..40)
        .map(|n| {
            let pac = pac.clone();
            tokio::spawn(async move { proxies(&pac, &format!("https://hub-{n}/")).await })
        })
        .collect();
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(answer[0], format!("http://hub-{n}:1"));
    }
}
