//! Node: the script on the command line, and the packages up the tree from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Facts, Software, only, version};

/// Packages, and what the hub calls them. Nest runs on one of the others.
const FRAMEWORKS: [(&str, &str); 9] = [
    ("@adonisjs/core", "js:adonisjs"),
    ("@hapi/hapi", "js:hapi"),
    ("elysia", "js:elysia"),
    ("express", "js:express"),
    ("@nestjs/platform-express", "js:express"),
    ("fastify", "js:fastify"),
    ("h3", "js:h3"),
    ("hono", "js:hono"),
    ("koa", "js:koa"),
];
/// Directories above a script that are looked at.
const MOST_DIRECTORIES: usize = 16;

pub(super) fn software(facts: &Facts) -> Software {
    let script = script(facts);
    let above: Vec<PathBuf> =
        script.iter().flat_map(|script| script.ancestors().skip(1)).map(Path::to_owned).collect();
    let above = &above[..above.len().min(MOST_DIRECTORIES)];
    let client = client(facts, script.as_deref(), above);
    let mut components = BTreeMap::new();
    components.extend(runtime(facts).map(|version| ("nodejs".to_owned(), version)));
    for (package, _) in FRAMEWORKS.iter().filter(|(_, of)| Some(*of) == client) {
        components.extend(installed(facts, above, package).map(|version| ((*package).to_owned(), version)));
    }
    Software { client: client.map(str::to_owned), components }
}

fn client(facts: &Facts, script: Option<&Path>, above: &[PathBuf]) -> Option<&'static str> {
    let named = |is_named: &dyn Fn(&str) -> bool| -> BTreeSet<&'static str> {
        FRAMEWORKS.iter().filter(|(package, _)| is_named(package)).map(|(_, client)| *client).collect()
    };
    let source = script.and_then(|script| facts.root.text(script)).unwrap_or_default();
    let required = named(&|package| {
        ['"', '\''].iter().any(|quote| {
            source.contains(&format!("require({quote}{package}{quote})"))
                || source.contains(&format!("from {quote}{package}{quote}"))
        })
    });
    let manifest = above.iter().find_map(|directory| json(facts, &directory.join("package.json")));
    let asked_for =
        manifest.map(|manifest| named(&|package| manifest["dependencies"].get(package).is_some()));
    let evidence = [required, asked_for.unwrap_or_default()];
    match evidence.into_iter().find(|found| !found.is_empty()) {
        Some(found) => only(found),
        None => only(named(&|package| installed(facts, above, package).is_some())),
    }
}

/// The first word of the command line that is a file, with or without its ending.
fn script(facts: &Facts) -> Option<PathBuf> {
    let words = facts.args.iter().skip(1).filter(|word| !word.starts_with('-')).take(MOST_DIRECTORIES);
    let mut paths = words.flat_map(|word| {
        let path = facts.path(word);
        [path.clone(), path.with_extension("js"), path.join("index.js")]
    });
    paths.find(|path| facts.root.file(path).is_some())
}

/// The version of a package where Node would find it.
fn installed(facts: &Facts, above: &[PathBuf], package: &str) -> Option<String> {
    let beside = above.iter().map(|directory| directory.join("node_modules"));
    let named = facts.variables.get("NODE_PATH").into_iter().flat_map(|path| path.split(':'));
    let mut places = beside.chain(named.map(|directory| facts.path(directory)).take(MOST_DIRECTORIES));
    places.find_map(|place| {
        let manifest = json(facts, &place.join(package).join("package.json"))?;
        version(manifest["version"].as_str()?)
    })
}

/// Node's own version, from the headers that lie beside it in most installations. The program says it too, in a hundred
/// megabytes.
fn runtime(facts: &Facts) -> Option<String> {
    let prefix = facts.exe.ancestors().nth(2)?;
    let header = facts.root.text(&prefix.join("include/node/node_version.h"))?;
    let number = |name: &str| {
        let line =
            header.lines().find_map(|line| line.strip_prefix(&format!("#define NODE_{name}_VERSION ")))?;
        line.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

fn json(facts: &Facts, path: &Path) -> Option<Value> {
    serde_json::from_str(&facts.root.text(path)?).ok()
}
