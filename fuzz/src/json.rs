//! Changes JSON and keeps it well-formed: with bytes changed at random, most inputs are refused for their first brace.

use insula_env::Rng;
use serde_json::{Map, Value, json};

use crate::mutate::{mutate, pick};

/// Values in a document that may be changed, at most.
const VALUES_MAX: u64 = 4096;
/// Changes of one document.
const CHANGES_MAX: u64 = 4;

/// Seeds that are looked at for one that is a document.
const TRIES: usize = 8;

/// A seed with a few values changed; now and then with a few bytes.
pub(crate) fn change(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    // Those that a run has added may be no documents.
    let seed = (0..TRIES).find_map(|_| serde_json::from_slice::<Value>(pick(seeds, rng)?).ok());
    match seed {
        Some(mut document) if rng.chance(0.8) => {
            for _ in 0..rng.range(1, CHANGES_MAX + 1) {
                change_one(&mut document, seeds, rng);
            }
            document.to_string().into_bytes()
        }
        _ => mutate(seeds, rng),
    }
}

fn change_one(document: &mut Value, seeds: &[Vec<u8>], rng: &Rng) {
    let mut left = rng.range(0, count(document).min(VALUES_MAX));
    if let Some(value) = nth(document, &mut left) {
        *value = other(value, seeds, rng);
    }
}

/// Values in it, itself among them.
fn count(value: &Value) -> u64 {
    match value {
        Value::Array(all) => 1 + all.iter().map(count).sum::<u64>(),
        Value::Object(all) => 1 + all.values().map(count).sum::<u64>(),
        _ => 1,
    }
}

fn nth<'a>(value: &'a mut Value, left: &mut u64) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(all) => all.iter_mut().find_map(|one| nth(one, left)),
        Value::Object(all) => all.values_mut().find_map(|one| nth(one, left)),
        _ => None,
    }
}

/// What may stand in a value's place.
fn other(value: &Value, seeds: &[Vec<u8>], rng: &Rng) -> Value {
    match (rng.range(0, 4), value) {
        // A part more, less, or twice.
        (0 | 1, Value::Array(all)) => Value::Array(rearranged(all, rng)),
        (0 | 1, Value::Object(all)) => {
            let mut names: Vec<_> = all.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            if rng.chance(0.3) && !names.is_empty() {
                let place = rng.range(0, names.len() as u64) as usize;
                names[place].0 = text(&names[place].0, rng);
            }
            Value::Object(rearranged(&names, rng).into_iter().collect::<Map<_, _>>())
        }
        (0 | 1, Value::String(old)) => Value::String(text(old, rng)),
        (2, _) => from_seed(seeds, rng).unwrap_or(Value::Null),
        _ => odd(rng),
    }
}

fn rearranged<T: Clone>(all: &[T], rng: &Rng) -> Vec<T> {
    let mut all = all.to_vec();
    let Some(one) = pick(&all, rng).cloned() else { return all };
    let place = rng.range(0, all.len() as u64) as usize;
    match rng.range(0, 3) {
        0 => drop(all.remove(place)),
        1 => all.insert(place, one),
        _ => all[place] = one,
    }
    all
}

/// A value from anywhere in the seeds.
fn from_seed(seeds: &[Vec<u8>], rng: &Rng) -> Option<Value> {
    let mut document = serde_json::from_slice(pick(seeds, rng)?).ok()?;
    let mut left = rng.range(0, count(&document).min(VALUES_MAX));
    nth(&mut document, &mut left).cloned()
}

fn text(old: &str, rng: &Rng) -> String {
    let bytes = mutate(&[old.as_bytes().to_vec()], rng);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Values that are seldom thought of.
fn odd(rng: &Rng) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(u64::from(u32::MAX)),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("/"),
        json!(".."),
        json!("../../etc/passwd"),
        json!("\u{0}"),
        json!("="),
        json!(":"),
        json!("ß\u{202e}"),
        json!("sha256:"),
        json!(format!("sha256:{}", "0".repeat(64))),
        json!(format!("sha256:../{}", "0".repeat(61))),
        json!("a".repeat(300)),
        json!([]),
        json!({}),
        json!([[[[[[[[]]]]]]]]),
    ];
    pick(&all, rng).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_differ_and_most_are_well_formed() {
        let seeds = [json!({ "a": [1, "two", { "b": null }], "c": { "d": "e" } }), json!({ "f": 1 })];
        let seeds: Vec<_> = seeds.iter().map(|seed| seed.to_string().into_bytes()).collect();
        let rng = Rng::from_seed(1);
        let all: Vec<_> = (0..2000).map(|_| change(&seeds, &rng)).collect();
        let is_well_formed = |text: &&Vec<u8>| serde_json::from_slice::<Value>(text).is_ok();
        let (well_formed, changed) = (all.iter().filter(is_well_formed).count(), all.iter());
        let changed = changed.filter(|text| !seeds.contains(text)).count();
        assert!(well_formed > 1500 && changed > 1500, "{well_formed} are well-formed, {changed} changed");
        assert!(all.iter().any(|text| text.len() > 300), "long ones are among them");
    }
}
