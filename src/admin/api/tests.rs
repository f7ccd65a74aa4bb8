//! The table as a whole.

use super::*;

#[test]
fn the_document_has_every_route_and_every_reference_leads_somewhere() {
    let document = openapi::document();
    for route in routes() {
        let way = if route.way == Way::Get { "get" } else { "post" };
        assert_eq!(document["paths"][route.path][way]["operationId"], route.id, "{}", route.path);
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

#[test]
fn routes_are_told_apart() {
    let mut seen = std::collections::BTreeSet::new();
    for route in routes() {
        assert!(seen.insert((route.path, format!("{:?}", route.way))), "{} stands twice", route.path);
        assert!(seen.insert((route.id, String::new())), "{} stands twice", route.id);
    }
}
