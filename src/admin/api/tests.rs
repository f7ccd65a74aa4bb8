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

#[test]
fn a_path_that_is_written_as_it_is_goes_before_one_with_a_variable() {
    let at = |method: Method, path: &str| match find(&method, path) {
        Lookup::Route(route, _) => route.id.to_owned(),
        Lookup::Methods(allow, _) => allow,
        Lookup::Nothing => "nothing".to_owned(),
    };
    assert_eq!(at(Method::GET, "/v1/quarantine/X"), "quarantined");
    assert_eq!(at(Method::POST, "/v1/quarantine/list"), "quarantine_list");
    assert_eq!(at(Method::GET, "/v1/quarantine/list"), "POST");
    assert_eq!(at(Method::HEAD, "/livez"), "live");
    assert_eq!(at(Method::DELETE, "/v1/status"), "GET, HEAD");
    assert_eq!(at(Method::GET, "/v1"), "nothing");
}
