use http::HeaderValue;
use insula_types::{ClusterId, NodeId, ServiceRef};
use proptest::prelude::*;

use super::*;

fn catalog(routes: &[(&str, &str, &str)]) -> Catalog {
    let mut catalog = Catalog::empty(ClusterId::new(1), "fra".parse().unwrap(), NodeId::new(1));
    for (host, path, app) in routes {
        let service = ServiceRef::new(app.parse().unwrap(), "web".parse().unwrap());
        catalog.services.entry(service.clone()).or_default();
        let target = RouteTarget { service, port: "http".parse().unwrap() };
        catalog.routes.entry((*host).to_owned()).or_default().insert((*path).to_owned(), target);
    }
    catalog
}

#[test]
fn the_longest_prefix_on_whole_segments_wins() {
    let catalog = catalog(&[
        ("shop.example", "/", "shop"),
        ("shop.example", "/api", "api"),
        ("shop.example", "/api/v2", "apitwo"),
        ("shop.example", "/files/", "files"),
        ("only.example", "/sub", "sub"),
    ]);
    let table = [
        ("shop.example", "/", Some("shop")),
        ("shop.example", "/apis", Some("shop")),
        ("shop.example", "/api", Some("api")),
        ("shop.example", "/api/", Some("api")),
        ("shop.example", "/api/v1", Some("api")),
        ("shop.example", "/api/v2", Some("apitwo")),
        ("shop.example", "/api/v2/x", Some("apitwo")),
        ("shop.example", "/api/v22", Some("api")),
        ("shop.example", "/files", Some("shop")),
        ("shop.example", "/files/a", Some("files")),
        ("only.example", "/", None),
        ("only.example", "/sub/x", Some("sub")),
        ("other.example", "/", None),
    ];
    for (host, path, app) in table {
        let found = find(&catalog, host, path).map(|target| target.service.app.as_str());
        assert_eq!(found, app, "{host}{path}");
    }
}

#[test]
fn hosts_are_compared_without_case_port_and_final_dot() {
    let of = |uri: &str, hosts: &[&str], version| {
        let headers =
            hosts.iter().map(|h| (header::HOST, HeaderValue::from_bytes(h.as_bytes()).unwrap())).collect::<HeaderMap>();
        host(&uri.parse().unwrap(), &headers, version).map(Cow::into_owned)
    };
    let v11 = Version::HTTP_11;
    assert_eq!(of("/", &["Shop.Example:8080"], v11).as_deref(), Ok("shop.example"));
    assert_eq!(of("/", &["shop.example."], v11).as_deref(), Ok("shop.example"));
    assert_eq!(of("/", &["[2001:DB8::1]:80"], v11).as_deref(), Ok("[2001:db8::1]"));
    assert_eq!(of("http://A.example/x", &["a.example:80"], v11).as_deref(), Ok("a.example"));
    assert_eq!(of("http://a.example/x", &[], Version::HTTP_10).as_deref(), Ok("a.example"));
    assert_eq!(of("http://a.example/x", &["b.example"], v11), Err(HostError::Differs));
    assert_eq!(of("/", &[], v11), Err(HostError::Missing));
    assert_eq!(of("/", &[], Version::HTTP_10), Err(HostError::Missing));
    assert_eq!(of("/", &["a.example", "a.example"], v11), Err(HostError::Several));
    for bad in ["", "a b", "user@a.example", "a.example/x", "a,b", "é.example", "[::1", "a.example:99999999"] {
        assert_eq!(of("/", &[bad], v11), Err(HostError::Malformed), "{bad:?}");
    }
}

proptest! {
    /// Against the definition: split into segments, compare segment by segment, the most segments win.
    #[test]
    fn routing_is_by_segments(
        prefixes in proptest::collection::btree_set("(/[ab]{1,2}){0,3}", 0..6),
        path in "(/[ab]{1,2}){1,4}",
    ) {
        let prefixes: Vec<String> = prefixes.into_iter().map(|p| if p.is_empty() { "/".to_owned() } else { p }).collect();
        let mut catalog = catalog(&[]);
        let service = ServiceRef::new("a".parse().unwrap(), "web".parse().unwrap());
        for (number, prefix) in prefixes.iter().enumerate() {
            let port = format!("p{number}").parse().unwrap();
            catalog.routes.entry("h".to_owned()).or_default()
                .insert(prefix.clone(), RouteTarget { service: service.clone(), port });
        }
        let segments = |text: &str| text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let expected = prefixes.iter().enumerate()
            .filter(|(_, prefix)| segments(&path).starts_with(&segments(prefix)))
            .max_by_key(|(_, prefix)| segments(prefix).len())
            .map(|(number, _)| format!("p{number}"));
        prop_assert_eq!(find(&catalog, "h", &path).map(|t| t.port.to_string()), expected);
    }

    /// Whatever a client sends as host, the answer is an error or a name that a route can have.
    #[test]
    fn any_host_is_answered(text in "\\PC{0,40}") {
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            let headers = HeaderMap::from_iter([(header::HOST, value)]);
            if let Ok(name) = host(&"/".parse().unwrap(), &headers, Version::HTTP_11) {
                prop_assert!(!name.is_empty() && name.is_ascii() && name == name.to_ascii_lowercase());
            }
        }
    }
}
