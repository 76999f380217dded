//! Selectors of labels, in the notation of `kubectl --selector`.

use kube::core::{Expression, Selector};

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{saw:?} is no selector of labels; write it as for kubectl, such as \"app=shop\", \"app=shop,tier!=db\" or \
     \"tier in (web, api)\""
)]
pub struct SelectorError {
    saw: String,
}

/// Reads requirements separated by commas, all of which are to hold: `key`, `!key`, `key=value`, `key==value`,
/// `key!=value`, `key in (a, b)`, `key notin (a, b)`.
///
/// # Errors
/// The first part that is none.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    parts(text)
        .map(|part| parse_one(part.trim()).ok_or_else(|| SelectorError { saw: part.trim().to_owned() }))
        .collect()
}

/// Separated by commas that are not in parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
}

fn parse_one(part: &str) -> Option<Expression> {
    if let Some(rest) = part.strip_suffix(')') {
        let (before, values) = rest.split_once('(')?;
        let values = || values.split(',').map(|value| word(value, is_value)).collect::<Option<_>>();
        let (key, operator) = before.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Expression::In(word(key, is_key)?, values()?)),
            "notin" => Some(Expression::NotIn(word(key, is_key)?, values()?)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Expression::NotEqual(word(key, is_key)?, word(value, is_value)?));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Expression::Equal(word(key, is_key)?, word(value, is_value)?));
    }
    match part.strip_prefix('!') {
        Some(key) => Some(Expression::DoesNotExist(word(key, is_key)?)),
        None => Some(Expression::Exists(word(part, is_key)?)),
    }
}

fn word(text: &str, is_usable: fn(&str) -> bool) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| is_usable(text))
}

/// A label's value: up to 63 letters, digits and any of `-_.`, or nothing
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).
fn is_value(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Likewise, a label's name, with the domain that it may have before a slash.
pub fn is_key(text: &str) -> bool {
    let (domain, name) = text.rsplit_once('/').unwrap_or(("", text));
    let of_domain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    !name.is_empty() && is_value(name) && domain.len() <= 253 && domain.bytes().all(of_domain)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    #[test]
    fn selectors_are_read_as_kubectl_reads_them() {
        let labels = |text: &str| -> BTreeMap<String, String> {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let check = |selector: &str, on: &str, want: bool| {
            assert_eq!(parse(selector).unwrap().matches(&labels(on)), want, "{selector:?} on {on:?}");
        };
        check("app=shop", "app=shop tier=web", true);
        check("app==shop", "app=shop", true);
        check("app=shop", "app=blog", false);
        check("app = shop , tier != db", "app=shop tier=web", true);
        check("app=shop,tier!=db", "app=shop tier=db", false);
        check("tier!=db", "", true);
        check("tier in (web, api)", "tier=api", true);
        check("tier in (web,api),app", "tier=api", false);
        check("tier notin (db)", "tier=web", true);
        check("tier notin (db,)", "tier=db", false);
        check("!canary", "app=shop", true);
        check("!canary", "canary=yes", false);
        check("app.kubernetes.io/name=shop", "app.kubernetes.io/name=shop", true);
        check("app=", "app=", true);
    }

    #[test]
    fn what_is_no_selector_is_said_to_be_none() {
        for text in [
            "",
            "app=shop,",
            "app=a b",
            "=x",
            "tier in web",
            "tier in (a",
            "tier into (a)",
            "a/b/c!",
            "app=$(x)",
        ] {
            let error = parse(text).map(|selector| selector.to_string()).unwrap_err();
            assert!(error.to_string().contains("is no selector"), "{error}");
        }
    }
}
