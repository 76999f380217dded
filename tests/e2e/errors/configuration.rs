//! What a configuration file says, what the files that it names hold, and where `check` says that values come from.

use std::fs;

use tests::agent::CLIENT_ID;
use tests::app::{App, Server};
use tests::machine;
use tests::scratch::Scratch;

use super::attempt::{Attempt, CONFIG, NO_INPUT, USAGE};

#[test]
fn what_is_wrong_with_a_document_is_told_with_the_place_that_names_it() {
    let _machine = machine::in_company();
    let (app, dir) = (App::start(Server::NodeHttp), Scratch::new("configuration"));
    let file = dir.join("agent.toml");
    fs::write(dir.join("broken.json"), "{\"openapi\": \"3.0.0\", \"paths\": 7}")
        .expect("it is our directory");
    let run = format!("--dry-run --pid {}", app.pid());
    let in_file = |text: &str, code, parts: &[&str]| {
        fs::write(&file, text).expect("it is our directory");
        let parts = [&["agent.toml:1:"], parts].concat();
        Attempt::of(&run)
            .arg("--config")
            .arg(file.to_str().expect("UTF-8"))
            .run()
            .assert_refused(code, &parts);
    };
    let broken = "broken.json: at paths of the OpenAPI document";
    in_file("openapi = \"broken.json\"", CONFIG, &[":11: `openapi`: ", broken]);
    in_file("openapi = \"none.json\"", NO_INPUT, &[":11: `openapi`: cannot read", "none.json: No such file"]);
    in_file("openapi = \"http://127.0.0.1:1/\"", NO_INPUT, &[":11: `openapi`: cannot fetch"]);
    in_file("openapi = \"ftp://h/x\"", CONFIG, &[":11: `openapi`: \"ftp://h/x\" is no URL"]);
    in_file("client_id_file = \"none\"", NO_INPUT, &[":18: cannot read", "none: No such file"]);
    in_file("consumer_file = \"none.csv\"", NO_INPUT, &[":17: cannot read", "none.csv: No such file"]);
    in_file("consumer_file = \"broken.json\"", CONFIG, &[":17: ", "broken.json:1: "]);

    let by_flag = |flag: &str, value: &str, code, part: &str| {
        let attempt = Attempt::of(&run).arg(flag).arg(dir.join(value).to_str().expect("UTF-8"));
        attempt.run().assert_refused(code, &[&format!("{flag}: "), part]);
    };
    by_flag("--openapi", "broken.json", NO_INPUT, broken);
    by_flag("--openapi", "none.json", NO_INPUT, "none.json: No such file");
    by_flag("--config", "none.toml", NO_INPUT, "none.toml: No such file");
    Attempt::of(&format!("{run} --openapi ftp://h/x"))
        .run()
        .assert_refused(USAGE, &["--openapi: \"ftp://h/x\""]);
}

#[test]
fn check_says_where_values_come_from() {
    let _machine = machine::in_company();
    let (app, dir) = (App::start(Server::NodeHttp), Scratch::new("configuration"));
    let file = dir.join("agent.toml");
    let text =
        format!("[[target]]\npid = {}\nclient_id = \"{CLIENT_ID}\"\nopenapi = \"api.json\"\n", app.pid());
    fs::write(&file, text).expect("it is our directory");
    let file = file.to_str().expect("UTF-8");
    let check = || Attempt::of("check --config").arg(file);
    let outcome = check().env("APITALLY_ENV", "prod").env("APITALLY_STATE_DIR", "/s").run();
    outcome.assert_printed(0, &[
        "agent\n  state_dir      from APITALLY_STATE_DIR\n  the rest       as by default\ntarget",
        &format!("  client_id      from {file}:3:13\n  env            from APITALLY_ENV\n  openapi        from {file}:4:11\n"),
    ]);
    assert!(!outcome.stdout.contains(CLIENT_ID), "{}", outcome.stdout);
    check().run().assert_printed(0, &["agent\n  everything     as by default\ntarget"]);
}
