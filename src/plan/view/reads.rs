//! Dependencies between views: the order in which they can be created, and cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::at;
use super::error::ViewError;
use crate::plan::PlanError;
use crate::sql::ast::CreateView;
use crate::value::Text;

/// The names of the streams, tables and views that a statement reads.
pub fn reads(create: &CreateView) -> impl Iterator<Item = &Text> {
    let query = &create.query;
    std::iter::once(&query.from).chain(query.joins.iter().map(|join| &join.source)).map(|source| &source.name.name)
}

/// The views ordered so that each comes after those that it reads. Those in a cycle come last.
pub fn in_order<'a>(views: &[&'a CreateView]) -> Vec<&'a CreateView> {
    let mut left: Vec<&CreateView> = views.to_vec();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waiting: BTreeSet<&Text> = left.iter().map(|view| &view.name.name).collect();
        let (next, rest): (Vec<_>, Vec<_>) =
            left.iter().partition(|view| reads(view).all(|name| !waiting.contains(name)));
        if next.is_empty() {
            ordered.extend(rest);
            break;
        }
        ordered.extend(next);
        left = rest;
    }
    ordered
}

/// The views among these that read `name`, directly or through others, in an order in which they can be created again.
pub fn over<'a>(name: &str, views: &[&'a CreateView]) -> Vec<&'a CreateView> {
    let mut found: BTreeSet<&str> = BTreeSet::from([name]);
    let mut over = in_order(views);
    over.retain(|view| {
        let reads_found = view.name.name != name && reads(view).any(|read| found.contains(read.as_str()));
        if reads_found {
            found.insert(view.name.name.as_str());
        }
        reads_found
    });
    over
}

/// The views that a view or rule is connected with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// the views, the closest first
    pub views: Vec<Text>,
    /// one of them reads several others, and must see the same cut of all of them
    pub in_step: bool,
}

/// The views connected with these, directly or through others: those that a view reads and those that read it, and the
/// views that one rule reads (`together`).
pub fn connected(with: &[Text], views: &[&CreateView], together: &[Vec<Text>]) -> Connected {
    let is_view = |name: &Text| views.iter().any(|view| view.name.name == *name);
    let read: Vec<(&Text, BTreeSet<&Text>)> =
        views.iter().map(|view| (&view.name.name, reads(view).filter(|name| is_view(name)).collect())).collect();
    let mut connected = Connected { views: with.to_vec(), in_step: false };
    let mut next = 0;
    while let Some(name) = connected.views.get(next).cloned() {
        next += 1;
        let mut add = |other: &Text| {
            if !connected.views.contains(other) {
                connected.views.push(other.clone());
            }
        };
        for (view, sources) in &read {
            if **view == name {
                sources.iter().for_each(|source| add(source));
            } else if sources.contains(&name) {
                add(view);
            }
        }
        together.iter().filter(|names| names.contains(&name)).flatten().for_each(&mut add);
    }
    let takes_several = |name: &Text| read.iter().any(|(view, sources)| *view == name && sources.len() > 1);
    connected.in_step = connected.views.iter().any(takes_several);
    connected
}

/// Checks that a view does not read itself, directly or through others in `views`. An existing view with its name is
/// ignored.
///
/// # Errors
/// [`ViewError::Cycle`]
pub fn check_cycle(create: &CreateView, views: &[&CreateView]) -> Result<(), PlanError> {
    let own = &create.name.name;
    let by_name: BTreeMap<&Text, &CreateView> = views.iter().map(|view| (&view.name.name, *view)).collect();
    // Each name with the view through which it was reached.
    let mut came_from: BTreeMap<&Text, &Text> = BTreeMap::new();
    let mut waiting: Vec<&CreateView> = vec![create];
    while let Some(view) = waiting.pop() {
        for name in reads(view) {
            if name == own {
                let mut path = vec![view.name.name.as_str()];
                let mut last = &view.name.name;
                while let Some(before) = came_from.get(last).filter(|_| last != own) {
                    path.push(before.as_str());
                    last = before;
                }
                path.reverse();
                path.push(own.as_str());
                let path = path.join(" \u{2192} ");
                return Err(at(ViewError::Cycle(path), create.query.from.name.span));
            }
            if let Some(next) = by_name.get(name)
                && !came_from.contains_key(name)
            {
                came_from.insert(name, &view.name.name);
                waiting.push(next);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse_view;

    #[test]
    fn views_are_connected_by_what_reads_them() {
        let views = [
            view("a", "s"),
            view("b", "a"),
            view("c", "s"),
            view("d", "c INNER JOIN e ON c.a = e.a"),
            view("e", "s"),
            view("f", "s"),
        ];
        let views: Vec<&CreateView> = views.iter().collect();
        let of = |name: &str, together: &[Vec<Text>]| {
            let Connected { mut views, in_step } = connected(&[name.into()], &views, together);
            views.sort_unstable();
            (views.join(""), in_step)
        };
        assert_eq!(of("a", &[]), ("ab".to_owned(), false));
        assert_eq!(of("e", &[]), ("cde".to_owned(), true));
        assert_eq!(of("f", &[]), ("f".to_owned(), false));
        let rule = vec![Text::from("f"), Text::from("b")];
        assert_eq!(of("f", &[rule]), ("abf".to_owned(), false));
    }

    fn view(name: &str, query: &str) -> CreateView {
        parse_view(&format!("CREATE VIEW {name} WITH (KEY=\"a\") AS SELECT a FROM {query}")).unwrap()
    }

    #[test]
    fn views_come_after_what_they_read() {
        let views = [view("c", "b"), view("d", "s"), view("b", "a INNER JOIN d ON a.x = d.x"), view("a", "s")];
        let all: Vec<&CreateView> = views.iter().collect();
        let names = |views: Vec<&CreateView>| views.iter().map(|view| view.name.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(in_order(&all)), ["d", "a", "b", "c"]);
        assert_eq!(names(over("d", &all)), ["b", "c"]);
        assert_eq!(names(over("s", &all)), ["d", "a", "b", "c"]);
        assert!(over("c", &all).is_empty());
    }

    #[test]
    fn a_circle_is_told_with_its_path() {
        let views = [view("b", "a"), view("c", "b"), view("a", "s")];
        let all: Vec<&CreateView> = views.iter().collect();
        let refusal = |create: &CreateView| check_cycle(create, &all).err().map(|error| error.to_string());
        assert_eq!(
            refusal(&view("a", "c")).as_deref(),
            Some("a view cannot read itself: a \u{2192} c \u{2192} b \u{2192} a")
        );
        assert_eq!(refusal(&view("a", "a")).as_deref(), Some("a view cannot read itself: a \u{2192} a"));
        assert_eq!(refusal(&view("a", "s")), None);
        assert_eq!(refusal(&view("d", "c")), None);
    }
}
