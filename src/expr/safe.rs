//! Owns the proof that a program can't run away: a whitelist over its syntax tree that bounds the work by the request.
//!
//! Promises that a program that passes does work and gives output linear in the size of the request (with the factor
//! [`FACTOR_MAX`] at most, beside sorting), and recurses no deeper than its own text. What is not on the list is not
//! wrong, it runs in the pool. The list leaves out on purpose: recursion and loops, variables and definitions, more
//! than one generator, `*` (repeats strings), regular expressions (their cost is the pattern's), `add` and `join` (they
//! copy as they grow), and everything that reads JSON from strings (`fromjson`, `tonumber`), which recurses without
//! bound.

use jaq_core::{
    load::{
        lex::StrPart,
        parse::{BinaryOp, Term},
    },
    ops::Math,
    path::Part,
};

use super::{INLINE_BODY_BYTES_MAX, bind, plain::plain_string};

/// How many times the size of the request a program may work through or give.
const FACTOR_MAX: u64 = 64;

/// The deepest nesting of the program itself.
const DEPTH_MAX: usize = 48;

/// JSON text in a string can grow sixfold with each escaping: a control character becomes `\u0001`.
const ESCAPING_FACTOR: u64 = 6;

/// The largest body for a program with a generator: an element of two bytes may cost a kilobyte there.
const EACH_BODY_BYTES_MAX: usize = 32 * 1024;

/// A literal counts as one more request for each so many bytes.
const LITERAL_BYTES: u64 = 16;

/// `"":0,` becomes `{"key":"","value":0},`, an element of one byte a string of three.
const ENTRY_FACTOR: u64 = 6;

/// Filters without argument that do linear work and give at most one output.
const FILTERS: [&str; 33] = [
    "empty",
    "true",
    "false",
    "null",
    "not",
    "length",
    "utf8bytelength",
    "keys",
    "keys_unsorted",
    "type",
    "ascii_downcase",
    "ascii_upcase",
    "first",
    "last",
    "values",
    "nulls",
    "booleans",
    "numbers",
    "strings",
    "arrays",
    "objects",
    "scalars",
    "iterables",
    "reverse",
    "trim",
    "ltrim",
    "rtrim",
    "floor",
    "ceil",
    "round",
    "error",
    "any",
    "all",
];

/// Filters with one argument that is a string literal.
const WITH_TEXT: [&str; 6] = ["startswith", "endswith", "ltrimstr", "rtrimstr", "has", "contains"];

/// What is known about a term that passed.
#[derive(Clone, Copy)]
struct Cost {
    /// Work and output are at most so many times the size of the input.
    factor: u64,
    /// More than one output is possible, all together no larger than the factor says.
    many: bool,
    /// It looks at a variable, so its cost is not bounded by its input alone.
    variables: bool,
    /// It does something for each element of a collection, so its constants count as well.
    each: bool,
}

const UNIT: Cost = Cost { factor: 1, many: false, variables: false, each: false };

/// If the work of the program is linear in the size of the request: the largest body that it may be given on the
/// caller's thread. None if nothing can be promised.
pub(super) fn body_bytes_max(term: &Term<&str>) -> Option<usize> {
    let cost = cost(term, 0).filter(|cost| cost.factor <= FACTOR_MAX)?;
    Some(if cost.each { EACH_BODY_BYTES_MAX } else { INLINE_BODY_BYTES_MAX })
}

/// None if nothing can be promised.
fn cost(term: &Term<&str>, depth: usize) -> Option<Cost> {
    if depth > DEPTH_MAX {
        return None;
    }
    let cost = |term: &Term<&str>| cost(term, depth + 1);
    match term {
        Term::Id | Term::Num(_) => Some(UNIT),
        Term::Var(name) => bind::NAMES.contains(name).then_some(Cost { variables: true, ..UNIT }),
        Term::Str(format, parts) => string(*format, parts, cost),
        Term::Arr(None) => Some(UNIT),
        Term::Arr(Some(items)) => cost(items).map(|inner| Cost { factor: inner.factor + 1, many: false, ..inner }),
        Term::Obj(members) => {
            let terms = members.iter().flat_map(|(key, value)| [Some(key), value.as_ref()]).flatten();
            sum(terms.map(single(cost)))
        }
        Term::Neg(inner) => single(cost)(inner),
        Term::BinOp(left, BinaryOp::Pipe(None), right) => pipe(cost(left)?, cost(right)?),
        Term::BinOp(left, BinaryOp::Alt | BinaryOp::Or | BinaryOp::And | BinaryOp::Cmp(_), right) => {
            sum([left, right].map(|side| single(cost)(side)))
        }
        Term::BinOp(left, BinaryOp::Math(Math::Add | Math::Sub | Math::Rem), right) => {
            sum([left, right].map(|side| single(cost)(side)))
        }
        Term::BinOp(left, BinaryOp::Math(Math::Div), right) => {
            // `/` also splits strings.
            let both = sum([left, right].map(|side| single(cost)(side)))?;
            Some(Cost { factor: both.factor.checked_mul(ENTRY_FACTOR)?, ..both })
        }
        Term::TryCatch(body, handler) => {
            let handler = handler.as_ref().map_or(Some(UNIT), |handler| single(cost)(handler))?;
            // The handler is given the error, which may quote the input as JSON.
            let body = cost(body)?;
            if body.many {
                return None;
            }
            pipe(Cost { factor: body.factor.checked_mul(ESCAPING_FACTOR)?, ..body }, handler)
        }
        Term::IfThenElse(branches, otherwise) => {
            let terms = branches.iter().flat_map(|(condition, then)| [condition, then]).chain(otherwise.as_deref());
            sum(terms.map(single(cost)))
        }
        Term::Path(from, path) => {
            let mut reached = cost(from)?;
            for (part, _) in &path.0 {
                reached = step(reached, part)?;
            }
            Some(reached)
        }
        Term::Call(name, arguments) => call(name, arguments, cost),
        Term::Recurse | Term::BinOp(..) | Term::Label(..) | Term::Break(_) | Term::Fold(..) | Term::Def(..) => None,
    }
}

impl Cost {
    fn with(self, other: Self) -> Self {
        Self {
            factor: self.factor.max(other.factor),
            many: self.many || other.many,
            variables: self.variables || other.variables,
            each: self.each || other.each,
        }
    }
}

/// Only what gives at most one output.
fn single<'t>(cost: impl Fn(&Term<&'t str>) -> Option<Cost>) -> impl Fn(&Term<&'t str>) -> Option<Cost> {
    move |term| cost(term).filter(|cost| !cost.many)
}

/// Side by side on the same input.
fn sum(costs: impl IntoIterator<Item = Option<Cost>>) -> Option<Cost> {
    costs.into_iter().try_fold(UNIT, |total, next| {
        let next = next?;
        let factor = total.factor.checked_add(next.factor)?;
        Some(Cost { factor, ..total.with(next) })
    })
}

/// One after the other. After a generator nothing may be looked at but the pieces it gives, or the whole request would
/// be worked through once for each.
fn pipe(left: Cost, right: Cost) -> Option<Cost> {
    if left.many && (right.many || right.variables) {
        return None;
    }
    let factor = left.factor.checked_mul(right.factor)?;
    Some(Cost { factor, ..left.with(right) })
}

/// A step of a path with literal keys.
fn step(from: Cost, part: &Part<Term<&str>>) -> Option<Cost> {
    let bound = |term: &Option<Term<&str>>| term.as_ref().is_none_or(is_literal);
    match part {
        Part::Index(key) => is_literal(key).then_some(from),
        Part::Range(None, None) if from.many => None,
        Part::Range(None, None) => Some(Cost { many: true, each: true, ..from }),
        Part::Range(start, end) => (bound(start) && bound(end)).then_some(from),
    }
}

fn is_literal(term: &Term<&str>) -> bool {
    match term {
        Term::Num(_) => true,
        Term::Neg(inner) => matches!(**inner, Term::Num(_)),
        other => plain_string(other).is_some(),
    }
}

fn call<'t>(name: &str, arguments: &[Term<&'t str>], cost: impl Fn(&Term<&'t str>) -> Option<Cost>) -> Option<Cost> {
    let each = Cost { many: true, each: true, ..UNIT };
    match (name, arguments) {
        (_, []) if FILTERS.contains(&name) => Some(UNIT),
        ("tostring" | "tojson", []) => Some(Cost { factor: ESCAPING_FACTOR, ..UNIT }),
        ("to_entries", []) => Some(Cost { factor: ENTRY_FACTOR, ..UNIT }),
        ("split", [separator]) if plain_string(separator).is_some() => Some(Cost { factor: ENTRY_FACTOR, ..UNIT }),
        ("has", [Term::Num(_)]) => Some(UNIT),
        (_, [text]) if WITH_TEXT.contains(&name) && plain_string(text).is_some() => Some(UNIT),
        ("contains", [Term::Arr(Some(item))]) if plain_string(item).is_some() => Some(UNIT),
        ("error", [message]) => single(cost)(message),
        ("select", [condition]) => {
            let condition = single(cost)(condition)?;
            Some(Cost { factor: condition.factor + 1, ..condition })
        }
        ("map", [body]) => pipe(each, cost(body)?).map(|inner| Cost { many: false, factor: inner.factor + 1, ..inner }),
        ("any" | "all", [condition]) => pipe(each, cost(condition)?).map(|inner| Cost { many: false, ..inner }),
        ("any" | "all", [items, condition]) => {
            pipe(cost(items)?, single(cost)(condition)?).map(|inner| Cost { many: false, ..inner })
        }
        ("first", [items]) => cost(items).map(|inner| Cost { many: false, ..inner }),
        _ => None,
    }
}

fn string<'t>(
    format: Option<&str>,
    parts: &[StrPart<&'t str, Term<&'t str>>],
    cost: impl Fn(&Term<&'t str>) -> Option<Cost>,
) -> Option<Cost> {
    if !matches!(format, None | Some("@text" | "@json" | "@html" | "@uri" | "@base64")) {
        return None;
    }
    let terms = parts.iter().filter_map(|part| match part {
        StrPart::Term(term) => Some(term),
        StrPart::Str(_) | StrPart::Char(_) => None,
    });
    let literal: u64 = parts
        .iter()
        .map(|part| match part {
            StrPart::Str(text) => text.len() as u64,
            StrPart::Char(_) | StrPart::Term(_) => 1,
        })
        .sum();
    let inner = sum(terms.map(single(cost)))?;
    let inner = Cost { factor: inner.factor.checked_add(literal / LITERAL_BYTES)?, ..inner };
    let plain = format.is_none() && parts.iter().all(|part| !matches!(part, StrPart::Term(_)));
    let escaped = if !plain { ESCAPING_FACTOR } else { 1 };
    Some(Cost { factor: inner.factor.checked_mul(escaped)?, ..inner })
}
