//! The payload paths of a schema version as a trie, so that each key of a message is looked up once.
//!
//! A device repeats its layout: each node remembers which key followed it last time, and comparing that one
//! key's bytes with the message's is nearly always the whole look-up.

use std::collections::HashMap;

use super::scan::Written;
use crate::schema::push_part;

/// The root for payloads.
pub(super) const PAYLOAD: u32 = 0;
/// The root for JSON message keys.
pub(super) const KEY: u32 = 1;
/// No node: roots are nobody's child.
const NONE: u32 = 0;

/// What the contract wants done with the value at a node, whatever columns it has.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) enum Rule {
    #[default]
    Plain,
    /// Left out, with everything below.
    Drop,
    /// The first element stands for the array.
    First,
    /// An array is read as an object; the number of the [`Pivot`].
    Pivot(u32),
    /// An array's elements are rows of the child of this number.
    Child(u32),
}

/// A column whose values of the expected kind need nothing but to be put there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) enum Leaf {
    /// Nothing of the sort.
    #[default]
    None,
    Boolean(u32),
    Integer(u32),
    Double(u32),
    Text(u32),
}

impl Leaf {
    pub fn column(self) -> Option<u32> {
        match self {
            Leaf::None => None,
            Leaf::Boolean(column) | Leaf::Integer(column) | Leaf::Double(column) | Leaf::Text(column) => Some(column),
        }
    }
}

/// Members of an array's elements, see [`ArrayShape::Pivot`](crate::schema::ArrayShape::Pivot).
#[derive(Debug, Clone)]
pub(super) struct Pivot {
    pub by: String,
    pub value: Option<String>,
}

#[derive(Debug, Default)]
struct Node {
    key: Box<str>,
    /// The key as messages write it, up to and with the colon; empty if it may be written in several ways.
    written: Written,
    /// The child met first last time.
    first: u32,
    /// The sibling met after this one last time.
    next: u32,
    source: Option<u32>,
    whole: bool,
    rule: Rule,
    leaf: Leaf,
    children: HashMap<Box<str>, u32>,
    text: String,
}

/// Paths of a schema version.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    pivots: Vec<Pivot>,
}

impl Trie {
    /// Two roots without paths.
    pub fn new() -> Self {
        let nodes = vec![Node::default(), Node { text: "$key".to_owned(), ..Node::default() }];
        Self { nodes, pivots: Vec::new() }
    }

    /// Adds a path below `root` that feeds `source`. With `whole`, an object there is taken as one JSON value.
    pub fn insert(&mut self, root: u32, parts: &[String], source: u32, whole: bool) {
        let node = self.node(root, parts);
        node.source = Some(source);
        node.whole |= whole;
    }

    /// Sets what is done with the value at a payload path.
    pub fn set_rule(&mut self, parts: &[String], rule: Rule) {
        self.node(PAYLOAD, parts).rule = rule;
    }

    /// Has values at a payload path put straight into a column.
    pub fn set_leaf(&mut self, parts: &[String], leaf: Leaf) {
        self.node(PAYLOAD, parts).leaf = leaf;
    }

    /// Has arrays at a payload path read as objects.
    pub fn set_pivot(&mut self, parts: &[String], pivot: Pivot) {
        self.set_rule(parts, Rule::Pivot(self.pivots.len() as u32));
        self.pivots.push(pivot);
    }

    /// The node of a path, made if it is not there.
    fn node(&mut self, root: u32, parts: &[String]) -> &mut Node {
        let mut node = root;
        for part in parts {
            let at = node as usize;
            node = match self.nodes[at].children.get(part.as_str()) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len() as u32;
                    let mut text = self.nodes[at].text.clone();
                    push_part(&mut text, part);
                    self.nodes[at].children.insert(part.as_str().into(), child);
                    self.nodes.push(Node {
                        key: part.as_str().into(),
                        written: written(part),
                        text,
                        ..Node::default()
                    });
                    child
                }
            };
        }
        &mut self.nodes[node as usize]
    }

    /// The child of `node` that was met after `previous` last time, and how its key is written.
    #[inline(always)]
    pub fn expected(&self, node: u32, previous: Option<u32>) -> Option<(u32, &Written)> {
        let guess = match previous {
            Some(previous) => self.nodes[previous as usize].next,
            None => self.nodes[node as usize].first,
        };
        let written = &self.nodes[guess as usize].written;
        (!written.is_empty()).then_some((guess, written))
    }

    /// The child of `node` under `key`; `previous` is the child met before it in the same object, if any.
    pub fn child(&mut self, node: u32, previous: Option<u32>, key: &str) -> Option<u32> {
        let guess = match previous {
            Some(previous) => self.nodes[previous as usize].next,
            None => self.nodes[node as usize].first,
        };
        if guess != NONE && *self.nodes[guess as usize].key == *key {
            return Some(guess);
        }
        let child = *self.nodes[node as usize].children.get(key)?;
        match previous {
            Some(previous) => self.nodes[previous as usize].next = child,
            None => self.nodes[node as usize].first = child,
        }
        Some(child)
    }

    /// True if a value at a payload path has a place: a source for which `is_place` holds, an object around it that
    /// is taken whole or left out, or a rule of its own.
    pub fn covers(&self, parts: &[String], is_place: impl FnOnce(u32) -> bool) -> bool {
        let mut node = PAYLOAD;
        for part in parts {
            match self.nodes[node as usize].children.get(part.as_str()) {
                _ if self.is_whole(node) || self.rule(node) == Rule::Drop => return true,
                Some(child) => node = *child,
                None => return false,
            }
        }
        self.rule(node) != Rule::Plain || self.source(node).is_some_and(is_place)
    }

    /// The source that the path of `node` feeds.
    pub fn source(&self, node: u32) -> Option<u32> {
        self.nodes[node as usize].source
    }

    /// What is done with the value at `node`.
    pub fn rule(&self, node: u32) -> Rule {
        self.nodes[node as usize].rule
    }

    /// The column that values at `node` may be put into straight.
    #[inline(always)]
    pub fn leaf(&self, node: u32) -> Leaf {
        self.nodes[node as usize].leaf
    }

    /// The pivot of a [`Rule::Pivot`].
    pub fn pivot(&self, number: u32) -> &Pivot {
        &self.pivots[number as usize]
    }

    /// True if an object at `node` is taken whole.
    pub fn is_whole(&self, node: u32) -> bool {
        self.nodes[node as usize].whole
    }

    /// True if no path goes on below `node`.
    pub fn is_leaf(&self, node: u32) -> bool {
        self.nodes[node as usize].children.is_empty()
    }

    /// The written form of the path to `node`.
    pub fn text(&self, node: u32) -> &str {
        &self.nodes[node as usize].text
    }
}

fn written(key: &str) -> Written {
    let plain = key.chars().all(|c| c >= ' ' && c != '"' && c != '\\');
    if plain { Written::new(format!("\"{key}\":")) } else { Written::default() }
}
