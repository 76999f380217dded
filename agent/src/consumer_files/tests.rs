use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn key() -> Key {
    Key::from_client_id("a client")
}

/// What comes of a file of this name and content: the number of its consumers, or the error without the directory.
fn load(name: &str, content: &[u8]) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    let loaded = NamesFile::open(&path, &key());
    let shorten = |error: FileError| error.to_string().replace(&format!("{}/", dir.path().display()), "");
    loaded.map(|(_, table)| table.len()).map_err(shorten)
}

#[test]
fn each_format_is_read() {
    let check = |name: &str, content: &str| assert_eq!(load(name, content.as_bytes()), Ok(2), "{content}");
    check(
        "a.toml",
        "# ours\n[[consumer]]\nidentifier = 'a'\nname = 'A'\ngroup = 'G'\n\n[[consumer]]\nidentifier = 'b'\ngroup = 'G'\n",
    );
    check("a.toml", "consumer = [{ identifier = 'a', name = 'A' }, { identifier = 'b', name = 'B' }]");
    check(
        "a.JSON",
        r#"[{"identifier": "a", "name": "A", "group": null}, {"group": "G", "identifier": "b"}]"#,
    );
    check("a.csv", "identifier,name,group\na,A,G\nb,B,\n");
    check("a.csv", "Name, Identifier\r\n\"A, Inc.\", a\r\n B , b \r\n");
    check("a.csv", "\u{feff}identifier,name\na,A\n\nb,B");
    assert_eq!(load("a.toml", b""), Ok(0));
    assert_eq!(load("a.json", b"[]"), Ok(0));
    assert_eq!(load("a.csv", b"identifier,name"), Ok(0));
}

#[test]
fn a_fault_is_told_with_its_line_and_without_what_is_there() {
    let check = |name: &str, content: &str, want: &str| {
        let error = load(name, content.as_bytes()).unwrap_err();
        assert!(error.contains(want), "{error}");
        assert!(!error.contains("s3cret") && !error.contains("4711"), "{error}");
    };
    let toml = "[[consumer]]\nidentifier = 's3cret'\nname = 'A'\n";
    check("a.toml", &format!("{toml}{toml}"), "a.toml:4: this identifier is there already");
    check(
        "a.toml",
        &format!("{toml}s3cret = 1"),
        "a.toml:1: there is a key here that is none of identifier, name and group",
    );
    check("a.toml", &format!("{toml}[s3cret]\na = 1"), "there is something here other than [[consumer]]");
    check("a.toml", "[[consumer]]\nidentifier = 's3cret'", "a.toml:1: there is neither a name nor a group");
    check(
        "a.toml",
        "[[consumer]]\nidentifier = 4711\nname = 'x'",
        "a.toml:2: a value is no text; put it in quotes",
    );
    check("a.toml", "[[consumer]]\nidentifier = s3cret", "a.toml:2: ");
    check("a.toml", "[[consumer]]\nidentifier = 's3cret", "a.toml:2: ");
    check("a.toml", "[[consumer]]\nidentifier = 's3cret'\nidentifier = 's3cret'", "a.toml:3: ");
    check("a.toml", "consumer = 's3cret'", "a.toml:1: ");
    let json = r#"{"identifier": "s3cret", "name": "A"}"#;
    check("a.json", &format!("[\n{json},\n{json}]"), "a.json:3: this identifier is there already");
    check("a.json", "[\n{\"s3cret\": 1}]", "a.json:2: there is a key");
    check("a.json", "[{\"identifier\":\n4711}]", "a.json:2: a value is no text");
    check("a.json", "[{\"identifier\": [\"s3cret\"]}]", "a.json:1: expected text in quotes here");
    check("a.json", r#"[{"name": "a", "name": "b"}]"#, "a key is there twice");
    check("a.json", r#"{"s3cret": "A"}"#, "a.json:1: expected a list of consumers here");
    check("a.json", r#""s3cret""#, "a.json:1: expected a list of consumers here");
    check("a.json", "[\n\"s3cret\"]", "a.json:2: ");
    check("a.json", "[] s3cret", "a.json:1: trailing characters");
    check("a.json", "", "a.json:1: EOF");
    check("a.csv", "identifier,name\ns3cret,A\ns3cret,B", "a.csv:3: this identifier is there already");
    check("a.csv", "identifier,name\ns3cret", "a.csv:2: there is neither a name nor a group");
    check("a.csv", "identifier,name\n,A", "a.csv:2: the identifier is empty");
    check("a.csv", "identifier,name\ns3cret,A,B", "a.csv:2: there are more fields than columns");
    check("a.csv", "s3cret,A", "a.csv:1: there is a column that is none of");
    check("a.csv", "name,group", "a.csv:1: the first line must name the columns");
    check("a.csv", "", "a.csv:1: the first line must name the columns");
    let error = load("a.csv", b"identifier,name\na,A\ns3cret\xff,B").unwrap_err();
    assert_eq!(error, "a.csv:3: this is no UTF-8");
}

#[test]
fn what_is_no_file_of_ours_is_told_apart() {
    assert!(load("names.yaml", b"").unwrap_err().starts_with("cannot tell how names.yaml is written"));
    assert!(load("names", b"").unwrap_err().contains(".toml, .json or .csv"));
    let missing = NamesFile::open(Path::new("/nowhere/names.csv"), &key()).unwrap_err();
    assert!(missing.is_unreadable() && missing.to_string().contains("/nowhere/names.csv"), "{missing}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::create_dir(&path).unwrap();
    let directory = NamesFile::open(&path, &key()).unwrap_err();
    assert!(
        directory.is_unreadable() && directory.to_string().ends_with("this is not a file"),
        "{directory}"
    );
    let path = dir.path().join("b.csv");
    File::create(&path).and_then(|file| file.set_len(MAX_NAMES_BYTES + 1)).unwrap();
    let large = NamesFile::open(&path, &key()).unwrap_err();
    assert!(!large.is_unreadable() && large.to_string().contains("at most 67108864 are read"), "{large}");
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, next) = (dir.path().join("a.csv"), dir.path().join("next"));
    let replace = |content: &str| {
        fs::write(&next, content).unwrap();
        fs::rename(&next, &path).unwrap();
    };
    replace("identifier,name\na,A\n");
    let (mut file, table) = NamesFile::open(&path, &key()).unwrap();
    assert_eq!(table.len(), 1);
    assert!(file.reload_if_changed().is_none());
    replace("identifier,name\nb,B\n"); // as long as before
    assert_eq!(file.reload_if_changed().unwrap().unwrap().len(), 1);
    replace("identifier,name\na,A\nb,B\n");
    assert_eq!(file.reload_if_changed().unwrap().unwrap().len(), 2);
    assert!(file.reload_if_changed().is_none());
    replace("identifier,name\na\n");
    assert!(file.reload_if_changed().unwrap().is_err());
    assert!(file.reload_if_changed().is_none(), "told once");
    fs::remove_file(&path).unwrap();
    assert!(file.reload_if_changed().unwrap().unwrap_err().is_unreadable());
    assert!(file.reload_if_changed().is_none(), "told once");
    replace("identifier,name\na,A\n");
    assert_eq!(file.reload_if_changed().unwrap().unwrap().len(), 1);
}

#[test]
fn a_key_is_read_from_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, "  sixteen bytes ok\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = KeyFile::read(&path).unwrap();
    assert_eq!(file.key.hash(b"x"), Key::from_secret(b"sixteen bytes ok").unwrap().hash(b"x"));
    assert!(!file.is_world_readable);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(KeyFile::read(&path).unwrap().is_world_readable);
    fs::write(&path, "short\n").unwrap();
    let error = KeyFile::read(&path).unwrap_err();
    assert!(!error.is_unreadable() && error.to_string().contains("has 5 bytes"), "{error}");
    assert!(KeyFile::read(&dir.path().join("missing")).unwrap_err().is_unreadable());
}
