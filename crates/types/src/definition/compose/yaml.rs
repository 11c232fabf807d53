//! YAML as far as a Compose file needs it: one document, anchors, aliases and merge keys; no tags of one's own.
//! Bounded: the text by its length, the values by their number with all aliases written out, and by their depth.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use super::{
    super::problem::Problems,
    node::{Kind, Node, Pair},
};

/// Deepest nesting that is read. A Compose file needs eight levels.
const DEPTH_MAX: usize = 32;
/// Keys and values of a file, what its aliases stand for counted each time. The largest file in use has some hundreds.
const VALUES_MAX: usize = 20_000;

/// Reads a text. None when it is not well-formed; then `problems` says why.
pub(super) fn read(text: &str, problems: &mut Problems) -> Option<Node> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        offsets: Offsets::of(text),
        anchors: BTreeMap::new(),
        left: VALUES_MAX,
    };
    match reader.document() {
        Ok(node) => Some(node),
        Err(Wrong { at, message }) => {
            problems.add(at, "", message);
            None
        }
    }
}

/// Why a text is not read.
struct Wrong {
    at: usize,
    message: String,
}

impl Wrong {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Byte offsets of characters; the parser counts these.
enum Offsets {
    Same,
    Table(Vec<usize>),
}

impl Offsets {
    fn of(text: &str) -> Self {
        if text.is_ascii() {
            return Self::Same;
        }
        Self::Table(text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
    }

    fn byte(&self, index: usize) -> usize {
        match self {
            Self::Same => index,
            Self::Table(table) => table.get(index).or(table.last()).copied().unwrap_or_default(),
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    offsets: Offsets,
    anchors: BTreeMap<usize, Node>,
    /// Values that may still come.
    left: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), Wrong> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.offsets.byte(span.start.index()))),
            Some(Err(error)) => {
                let at = self.offsets.byte(error.marker().index());
                Err(Wrong::new(at, format!("not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn document(&mut self) -> Result<Node, Wrong> {
        let mut found = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if found.is_some() => {
                    return Err(Wrong::new(at, "a second document begins here; a Compose file has one"));
                }
                Event::DocumentStart(_) => {
                    let (event, at) = self.next()?;
                    found = Some(self.value(event, at, DEPTH_MAX)?);
                }
                Event::StreamEnd => return found.ok_or_else(|| Wrong::new(0, "it is empty")),
                _ => return Err(Wrong::new(at, "not valid YAML: a value outside of the document")),
            }
        }
    }

    /// One value, whose first event has been taken.
    fn value(&mut self, event: Event<'t>, at: usize, depth: usize) -> Result<Node, Wrong> {
        self.take(at, 1)?;
        let Some(below) = depth.checked_sub(1) else {
            return Err(Wrong::new(at, format!("nested deeper than {DEPTH_MAX} levels")));
        };
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref(), at)?, anchor),
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), "seq", at)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, at) => items.push(self.value(event, at, below)?),
                    }
                }
                (Kind::List(items), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), "map", at)?;
                (self.map(below)?, anchor)
            }
            Event::Alias(anchor) => {
                // What an alias stands for counts as often as it is named, so that a few lines cannot stand for billions.
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| Wrong::new(at, "this alias is part of what it stands for"))?;
                self.take(at, count(&node))?;
                check_depth(&node, depth, at)?;
                return Ok(node);
            }
            _ => return Err(Wrong::new(at, "not valid YAML: a value is missing")),
        };
        let node = Node { at, kind };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Wrong> {
        let (mut pairs, mut merged) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match self.value(event, at, depth)?.kind {
                Kind::Scalar { text, .. } => text,
                Kind::Null => "null".to_owned(),
                Kind::List(_) | Kind::Map(_) => return Err(Wrong::new(at, "a key is text; this is a list or a table")),
            };
            let (event, value_at) = self.next()?;
            let value = self.value(event, value_at, depth)?;
            if is_merge {
                merged.extend(merge(value)?);
            } else if seen.insert(key.clone()) {
                pairs.push(Pair { key, at, value });
            } else {
                return Err(Wrong::new(at, format!("not valid: the key {key:?} is there twice")));
            }
        }
        // What is written in the table itself goes before what is merged into it, and that before what is merged later.
        for pair in merged {
            if seen.insert(pair.key.clone()) {
                pairs.push(pair);
            }
        }
        Ok(Kind::Map(pairs))
    }

    fn take(&mut self, at: usize, count: usize) -> Result<(), Wrong> {
        let left = self.left.checked_sub(count);
        let wrong = || Wrong::new(at, format!("more than {VALUES_MAX} values, with what aliases stand for"));
        self.left = left.ok_or_else(wrong)?;
        Ok(())
    }
}

/// What `<<` brings: the entries of a table, or of several.
fn merge(value: Node) -> Result<Vec<Pair>, Wrong> {
    let wrong = |at| Wrong::new(at, "<< takes a table, or a list of tables");
    match value.kind {
        Kind::Map(pairs) => Ok(pairs),
        Kind::List(items) => {
            let mut all = Vec::new();
            for item in items {
                let Kind::Map(pairs) = item.kind else { return Err(wrong(item.at)) };
                all.extend(pairs);
            }
            Ok(all)
        }
        _ => Err(wrong(value.at)),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: usize) -> Result<Kind, Wrong> {
    let is_text = check_tag(tag, "str", at).is_ok() && tag.is_some();
    if !is_text && let Some(tag) = tag {
        let known = ["int", "float", "bool", "null"];
        if !(tag.is_yaml_core_schema() && known.contains(&tag.suffix.as_str())) {
            return Err(refused(tag, at));
        }
    }
    let is_plain = style == ScalarStyle::Plain && !is_text;
    if is_plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Ok(Kind::Null);
    }
    Ok(Kind::Scalar { text: text.to_owned(), is_plain })
}

fn check_tag(tag: Option<&Tag>, suffix: &str, at: usize) -> Result<(), Wrong> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == suffix) => Err(refused(tag, at)),
        _ => Ok(()),
    }
}

fn refused(tag: &Tag, at: usize) -> Wrong {
    let tag: String = format!("{}{}", tag.handle, tag.suffix).chars().take(64).collect();
    Wrong::new(at, format!("the tag {tag:?} is for files that are laid over others: write the whole into one file"))
}

/// Values in a tree, keys included.
fn count(node: &Node) -> usize {
    match &node.kind {
        Kind::Map(pairs) => 1 + pairs.iter().map(|pair| 1 + count(&pair.value)).sum::<usize>(),
        Kind::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Kind::Null | Kind::Scalar { .. } => 1,
    }
}

fn check_depth(node: &Node, left: usize, at: usize) -> Result<(), Wrong> {
    let Some(below) = left.checked_sub(1) else {
        return Err(Wrong::new(at, format!("nested deeper than {DEPTH_MAX} levels")));
    };
    match &node.kind {
        Kind::Map(pairs) => pairs.iter().try_for_each(|pair| check_depth(&pair.value, below, at)),
        Kind::List(items) => items.iter().try_for_each(|item| check_depth(item, below, at)),
        Kind::Null | Kind::Scalar { .. } => Ok(()),
    }
}
