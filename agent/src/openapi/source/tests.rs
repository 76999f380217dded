use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const ONE: &str = r#"{"openapi": "3.0.0", "paths": {"/a": {"get": {}}}}"#;
const TWO: &str = "openapi: 3.0.0\npaths:\n  /a: { get: {} }\n  /b: { get: {} }\n";

fn operations(document: Result<Option<Document>, SourceError>) -> Option<usize> {
    document.unwrap().map(|document| document.operations.len())
}

#[test]
fn what_cannot_be_a_source_is_named() {
    let check = |text: &str, want: &str| {
        let error = OpenApiSource::parse(text).unwrap_err();
        assert!(error.to_string().contains(want), "{text}: {error}");
        assert!(error.is_misspelt());
    };
    check(" ", "it is empty");
    check("ftp://example.com/x", "the scheme is ftp");
    check("http://", "is no URL that can be fetched");
    check("gopher://me:secret@example.com/x?key=secret", "\"gopher://example.com/x\"");
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("openapi.yaml");
    let mut source = OpenApiSource::parse(path.to_str().unwrap()).unwrap();
    let error = source.load().await.unwrap_err();
    assert!(error.is_unreadable());
    assert!(error.to_string().ends_with("openapi.yaml: No such file or directory (os error 2)"), "{error}");

    fs::write(&path, ONE).unwrap();
    assert_eq!(source.load().await.unwrap().operations.len(), 1);
    assert_eq!(operations(source.reload_if_changed().await), None);

    // Replaced, as editors and deployments do it.
    let replacement = directory.path().join("new");
    fs::write(&replacement, TWO).unwrap();
    fs::rename(&replacement, &path).unwrap();
    assert_eq!(operations(source.reload_if_changed().await), Some(2));

    // Trouble is told once, and what was there before it is not loaded again.
    fs::write(&path, "openapi: [").unwrap();
    let error = source.reload_if_changed().await.unwrap_err();
    assert!(
        error.to_string().contains("openapi.yaml: the OpenAPI document cannot be read as YAML"),
        "{error}"
    );
    assert_eq!(operations(source.reload_if_changed().await), None);
    fs::remove_file(&path).unwrap();
    assert!(source.reload_if_changed().await.is_err());
    assert_eq!(operations(source.reload_if_changed().await), None);
    fs::write(&path, ONE).unwrap();
    assert_eq!(operations(source.reload_if_changed().await), Some(1));
    fs::write(&path, ONE).unwrap();
    assert_eq!(operations(source.reload_if_changed().await), None);

    let mut source = OpenApiSource::parse(directory.path().to_str().unwrap()).unwrap();
    let error = source.load().await.unwrap_err().to_string();
    assert!(error.ends_with("is not a file"), "{error}");
}

#[tokio::test]
async fn a_pipe_does_not_make_us_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let mode = rustix::fs::Mode::from(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut source = OpenApiSource::parse(path.to_str().unwrap()).unwrap();
    assert!(source.load().await.unwrap_err().to_string().ends_with("is not a file"));
}

#[tokio::test]
async fn changes_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("openapi.json");
    fs::write(&path, ONE).unwrap();
    let mut source = OpenApiSource::parse(path.to_str().unwrap()).unwrap();
    source.load().await.unwrap();
    let mut changed = source.follow();
    fs::write(&path, TWO).unwrap();
    assert_eq!(changed.recv().await.unwrap().operations.len(), 2);
}

/// A server that answers each request with the next of its answers, and the last one from then on; it keeps the heads
/// of the requests.
async fn serve(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/openapi.json", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        for index in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            seen.lock().unwrap().push(String::from_utf8_lossy(&head[..length]).to_ascii_lowercase());
            let answer = answers.get(index).or(answers.last()).unwrap();
            // Whoever has read enough goes away.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, heads)
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn a_url_is_fetched_again_when_it_changes() {
    let (url, heads) = serve(vec![
        answer("200 OK", "etag: \"1\"\r\nlast-modified: Sun, 22 Nov 2026 10:00:00 GMT\r\n", ONE),
        answer("304 Not Modified", "", ""),
        answer("200 OK", "", ONE),
        answer("200 OK", "", TWO),
        answer("503 Busy", "", ""),
    ])
    .await;
    let mut source = OpenApiSource::parse(&url).unwrap();
    assert_eq!(source.load().await.unwrap().operations.len(), 1);
    assert_eq!(operations(source.reload_if_changed().await), None);
    assert_eq!(operations(source.reload_if_changed().await), None);
    assert_eq!(operations(source.reload_if_changed().await), Some(2));
    let error = source.reload_if_changed().await.unwrap_err();
    assert!(error.to_string().ends_with("the server answers 503") && error.is_unreadable(), "{error}");
    assert_eq!(operations(source.reload_if_changed().await), None);

    let heads = heads.lock().unwrap().clone();
    let asks = |head: &String, field: &str| head.contains(&format!("\r\n{field}\r\n"));
    assert!(heads[0].starts_with("get /openapi.json http/1.1\r\n") && !heads[0].contains("if-none-match"));
    assert!(asks(&heads[1], "if-none-match: \"1\""), "{}", heads[1]);
    assert!(asks(&heads[1], "if-modified-since: sun, 22 nov 2026 10:00:00 gmt"), "{}", heads[1]);
    // The third answer said nothing to ask with.
    assert!(asks(&heads[2], "if-none-match: \"1\"") && !heads[3].contains("if-none-match"));
}

#[tokio::test]
async fn a_url_without_a_document_is_named_without_its_secrets() {
    let secret = |url: &str| url.replace("http://", "http://me:secret@") + "?key=secret";
    let check = async |url: &str, want: &str, is_unreadable| {
        let error = OpenApiSource::parse(&secret(url)).unwrap().load().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(want) && text.contains(url) && !text.contains("secret"), "{text}");
        assert_eq!(error.is_unreadable(), is_unreadable);
    };
    let (url, _) = serve(vec![answer("200 OK", "", "<html>")]).await;
    check(&url, "HTML", false).await;
    let (url, _) = serve(vec![answer("200 OK", "", &" ".repeat(MAX_DOCUMENT + 1))]).await;
    check(&url, "at most 8388608 are read", false).await;
    let (url, _) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned()]).await;
    check(&url, "cannot fetch", true).await;
    // Nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    drop(listener);
    check(&url, "Connection refused", true).await;
}
