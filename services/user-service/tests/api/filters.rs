//! SCIM's filters: their grammar by itself, and what the database finds by them against what they mean in memory.

use kronos_common::problem::Problem;
use proptest::prelude::*;
use serde_json::{Value, json};
use user_service::scim::{
    Document,
    filter::{AttributePath, DEEPEST, Filter, MOST_TERMS, OPERATORS, Target},
    matching::{Scope, passes},
    schema::USERS,
};

use crate::harness::Fixture;

#[test]
fn filters_of_the_standard_are_read() {
    for text in [
        r#"userName eq "bjensen""#,
        r#"name.familyName co "O'Malley""#,
        r#"userName sw "J""#,
        r#"urn:ietf:params:scim:schemas:core:2.0:User:userName sw "J""#,
        "title pr",
        r#"meta.lastModified gt "2011-05-13T04:42:34Z""#,
        r#"title pr and userType eq "Employee""#,
        r#"title pr or userType eq "Intern""#,
        r#"userType eq "Employee" and (emails co "example.com" or emails.value co "example.org")"#,
        r#"userType ne "Employee" and not (emails co "example.com" or emails.value co "example.org")"#,
        r#"userType eq "Employee" and (emails.type eq "work")"#,
        r#"userType eq "Employee" and emails[type eq "work" and value co "@example.com"]"#,
        r#"emails[type eq "work" and value co "@example.com"] or ims[type eq "xmpp" and value co "@foo.com"]"#,
        r#"emails[type eq "work"].value eq "camille@example.com""#,
        "USERNAME EQ \"x\" AND NOT (active eq FALSE)",
        "active eq true and externalId eq null",
        "not(title pr)",
        r#"displayName eq "a \" and \\ \u00e9""#,
    ] {
        let filter = Filter::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        passes(Scope::Resource(&USERS), &Document::new(), &filter).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert_eq!(Filter::parse(&filter.to_string()).unwrap(), filter, "{text}");
    }
}

#[test]
fn and_binds_tighter_than_or() {
    let parse = |text| Filter::parse(text).unwrap();
    assert_eq!(parse("a pr or b pr and c pr"), parse("a pr or (b pr and c pr)"));
    assert_ne!(parse("a pr or b pr and c pr"), parse("(a pr or b pr) and c pr"));
    assert_eq!(parse("not (a pr) and b pr"), parse("(not (a pr)) and b pr"));
}

#[test]
fn what_is_no_filter_is_refused_with_the_place() {
    for text in [
        "",
        " ",
        "userName",
        "userName eq",
        "userName eq bjensen",
        "userName xx \"a\"",
        "userName eq \"a",
        "(a pr",
        "a pr)",
        "a pr and",
        "and a pr",
        "not a pr or",
        "a[b pr",
        "a[b pr].",
        "a.b[c pr]",
        "a eq {}",
        "a eq [1]",
        "a eq \"\\u0000\"",
        "a pr b pr",
        "\u{0}",
        "1a pr",
        "urn: pr",
        "a eq 1e999999x",
    ] {
        let fault = Filter::parse(text).expect_err(text);
        let problem = Problem::from(fault);
        assert_eq!((problem.status().as_u16(), problem.code()), (400, "invalid_filter"), "{text}");
        assert!(problem.detail().contains("at character") || text.contains("u0000"), "{text}: {problem}");
    }
}

#[test]
fn a_filter_has_a_depth_and_a_length() {
    let nested = |depth: usize| format!("{}title pr{}", "(".repeat(depth), ")".repeat(depth));
    Filter::parse(&nested(DEEPEST)).unwrap();
    for deep in
        [nested(DEEPEST + 1), nested(1_000), "not (".repeat(1_000), "emails[".repeat(1_000), "(".repeat(1_000_000)]
    {
        assert!(Filter::parse(&deep).unwrap_err().to_string().contains("deep"));
    }
    let long = |terms: usize| vec!["title pr"; terms].join(" or ");
    Filter::parse(&long(MOST_TERMS)).unwrap();
    assert!(Filter::parse(&long(MOST_TERMS + 1)).unwrap_err().to_string().contains("comparisons"));
}

#[test]
fn a_path_of_a_change_may_choose_elements() {
    let target = Target::parse(r#"emails[type eq "work"].value"#).unwrap();
    assert_eq!((target.attribute.to_string().as_str(), target.filter.is_some()), ("emails.value", true));
    let urn = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
    let path = AttributePath::parse(&format!("{urn}:manager.value")).unwrap();
    assert_eq!((path.urn.as_deref(), path.name.as_str(), path.part.as_deref()), (Some(urn), "manager", Some("value")));
    for wrong in ["", "a[", "a[b pr]x", "a b", "a..b", "a[b pr].c.d"] {
        Target::parse(wrong).expect_err(wrong);
    }
}

/// Values that some of the people below have.
const TEXTS: &[&str] = &["anna", "ANNA", "an", "b", "work", "home", "anna@example.com", "Sales", "", "a_b%", "7"];

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => prop::sample::select(TEXTS).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(json!(7)),
        1 => Just(Value::Null),
        1 => Just(json!("2026-01-01T00:00:00Z")),
    ]
}

fn path(names: &'static [&'static str]) -> impl Strategy<Value = AttributePath> {
    prop::sample::select(names).prop_map(|name| AttributePath::parse(name).unwrap())
}

const PATHS: &[&str] = &[
    "userName",
    "displayName",
    "title",
    "name.givenName",
    "name",
    "active",
    "emails",
    "emails.value",
    "emails.type",
    "emails.primary",
    "phoneNumbers.value",
    "externalId",
    "meta.created",
    "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department",
    "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager",
];

fn term(names: &'static [&'static str]) -> impl Strategy<Value = Filter> {
    let operator = prop::sample::select(OPERATORS.as_slice()).prop_map(|(_, operator)| operator);
    prop_oneof![
        4 => (path(names), operator, value()).prop_map(|(path, operator, value)| Filter::Compare(path, operator, value)),
        1 => path(names).prop_map(Filter::Present),
    ]
}

fn tree(leaf: BoxedStrategy<Filter>) -> BoxedStrategy<Filter> {
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Or),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
    .boxed()
}

fn filter() -> impl Strategy<Value = Filter> {
    let element = (path(&["emails", "phoneNumbers"]), tree(term(&["value", "type", "primary", "display"]).boxed()))
        .prop_map(|(path, filter)| Filter::Element(path, Box::new(filter)));
    tree(prop_oneof![4 => term(PATHS), 1 => element].boxed())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z()\\[\\]. \"\\\\:0-9é]{0,60}") {
        let _ = Filter::parse(&text);
        let _ = Target::parse(&text);
        let _ = AttributePath::parse(&text);
    }

    #[test]
    fn a_filter_that_is_written_is_read_back(filter in filter()) {
        let text = filter.to_string();
        prop_assert_eq!(Filter::parse(&text).map_err(|fault| TestCaseError::fail(format!("{text}: {fault}")))?, filter);
    }
}

/// People with some attributes and without others.
async fn people(fixture: &Fixture) -> Vec<Value> {
    let enterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
    let manager = fixture.user("manager").await;
    for person in [
        json!({"userName": "anna", "displayName": "Anna", "title": "a_b%", "externalId": "ANNA"}),
        json!({"userName": "b", "name": {"givenName": "ANNA", "familyName": "7"}, "active": false}),
        json!({"userName": "c", "title": "", "emails": [
            {"value": "anna@example.com", "type": "work", "primary": true}, {"value": "an@example.com", "type": "home"},
        ]}),
        json!({"userName": "d", "emails": [{"value": "d@example.com"}], "phoneNumbers": [{"value": "7", "type": "home"}],
               enterprise: {"department": "Sales", "manager": {"value": manager}}}),
        json!({"userName": "annabel", "displayName": "an", enterprise: {"department": "anna"}}),
    ] {
        fixture.admin.post("/scim/v2/Users", &person).await.expect(201);
    }
    fixture.admin.get("/scim/v2/Users").await.expect(200).json()["Resources"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_database_finds_whom_a_filter_means() {
    let fixture = Fixture::new().await;
    let people = people(&fixture).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut found_some, mut refused) = (0, 0);
    for _ in 0..400 {
        let filter = proptest::strategy::ValueTree::current(&filter().new_tree(&mut runner).unwrap());
        let body = json!({"filter": filter.to_string(), "attributes": ["userName"]});
        let answer = fixture.admin.post("/scim/v2/Users/.search", &body).await;
        let meant: Result<Vec<&Value>, _> = people
            .iter()
            .filter_map(|person| match passes(Scope::Resource(&USERS), person.as_object().unwrap(), &filter) {
                Ok(passes) => passes.then_some(Ok(&person["userName"])),
                Err(fault) => Some(Err(fault)),
            })
            .collect();
        let Ok(meant) = meant else {
            assert_eq!(
                (answer.status, &answer.json()["scimType"]),
                (400, &json!("invalidFilter")),
                "{filter}: {answer}"
            );
            refused += 1;
            continue;
        };
        let answer = answer.expect(200).json();
        let found: Vec<&Value> =
            answer["Resources"].as_array().unwrap().iter().map(|person| &person["userName"]).collect();
        assert_eq!(found, meant, "{filter}");
        assert_eq!(answer["totalResults"], meant.len());
        found_some += usize::from(!meant.is_empty() && meant.len() < people.len());
    }
    assert!(found_some > 40 && refused < 300, "{found_some} filters told some from others, {refused} were refused");
}
