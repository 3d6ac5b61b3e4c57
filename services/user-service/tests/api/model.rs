//! Effective rights against a naive model: once as pure rules, once through the API with random changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{TimeDelta, Utc};
use kronos_testkit::{TestClient, wait_until};
use proptest::prelude::*;
use serde_json::{Value, json};
use user_service::{
    rights::{Holding, IncludedRole, Person, difference::difference, effective, grants, judge},
    roles::{Inheritance, PermissionName, closure},
};
use uuid::Uuid;

use crate::harness::Fixture;

const ROLES: usize = 6;
const RESOURCES: [&str; 5] = ["robot:R-1", "robot:R-2", "customer:17", "customer:17/robot:R-1", "customer:17/*"];
const WANTED: [&str; 4] = ["logs:read", "logs:write", "robots:use", "robots:see"];
const GRANTED: [&str; 6] = ["logs:read", "logs:*", "*:write", "robots:use", "robots:see", "*:see"];

/// Roles whose inheritance points to lower numbers only, so that there is no circle.
#[derive(Debug, Clone)]
struct World {
    roles: Vec<(BTreeSet<usize>, BTreeSet<usize>)>,
    /// Role, resource, and whether it has ended.
    assignments: Vec<(usize, Option<usize>, bool)>,
}

fn world() -> impl Strategy<Value = World> {
    let role = (prop::collection::btree_set(0..GRANTED.len(), 0..3), prop::collection::btree_set(0..ROLES, 0..3));
    let assignment = (0..ROLES, prop::option::of(0..RESOURCES.len()), prop::bool::weighted(0.2));
    (prop::collection::vec(role, ROLES), prop::collection::vec(assignment, 0..5)).prop_map(
        |(mut roles, assignments)| {
            for (number, (_, inherits)) in roles.iter_mut().enumerate() {
                inherits.retain(|inherited| *inherited < number);
            }
            World { roles, assignments }
        },
    )
}

impl World {
    /// What a role grants: its own, and by recursion that of what it inherits.
    fn granted(&self, role: usize) -> BTreeSet<usize> {
        let (own, inherits) = &self.roles[role];
        own.iter().copied().chain(inherits.iter().flat_map(|inherited| self.granted(*inherited))).collect()
    }

    fn allows(&self, wanted: &str, resource: Option<&str>) -> bool {
        self.assignments.iter().any(|(role, tied_to, ended)| {
            let place = match (tied_to.map(|index| RESOURCES[index]), resource) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some("customer:17/*"), Some(resource)) => resource.starts_with("customer:17/") && resource.len() > 12,
                (Some(tied_to), Some(resource)) => tied_to == resource,
            };
            !ended && place && self.granted(*role).iter().any(|granted| covers(GRANTED[*granted], wanted))
        })
    }

    fn holdings(&self) -> Vec<Holding> {
        let inheritance: Inheritance = self
            .roles
            .iter()
            .enumerate()
            .map(|(number, (_, inherits))| (number.to_string(), inherits.iter().map(ToString::to_string).collect()))
            .collect();
        let mut holdings = Vec::new();
        for (role, resource, ended) in &self.assignments {
            for (included, path) in closure(&inheritance, &role.to_string()) {
                let own = &self.roles[included.parse::<usize>().unwrap()].0;
                holdings.push(Holding {
                    resource: resource.map(|index| RESOURCES[index].to_owned()),
                    expires_at: ended.then(|| Utc::now() - TimeDelta::seconds(1)),
                    group: None,
                    role: Arc::new(IncludedRole {
                        path,
                        permissions: own.iter().map(|granted| GRANTED[*granted].to_owned()).collect(),
                    }),
                });
            }
        }
        holdings
    }
}

fn covers(granted: &str, wanted: &str) -> bool {
    let ((gr, ga), (wr, wa)) = (granted.split_once(':').unwrap(), wanted.split_once(':').unwrap());
    (gr == "*" || gr == wr) && (ga == "*" || ga == wa)
}

fn person(disabled: bool) -> Person {
    Person { id: Uuid::now_v7(), username: "camille".to_owned(), disabled, epoch: 1 }
}

fn asked() -> impl Iterator<Item = Option<&'static str>> {
    // What one can ask of: no pattern.
    [None].into_iter().chain(RESOURCES[..4].iter().map(|resource| Some(*resource)))
}

proptest! {
    #[test]
    fn a_judgement_is_what_the_naive_model_says(world in world()) {
        let holdings = world.holdings();
        for wanted in WANTED {
            let permission = PermissionName::try_from(wanted.to_owned()).unwrap();
            for resource in asked() {
                let decision = judge(&person(false), &holdings, &permission, resource, Utc::now());
                prop_assert_eq!(decision.allowed, world.allows(wanted, resource), "{} {:?}: {:?}", wanted, resource, decision.why);
                prop_assert!(!decision.why.is_empty());
                prop_assert!(!judge(&person(true), &holdings, &permission, resource, Utc::now()).allowed);
            }
        }
    }

    #[test]
    fn what_is_effective_is_what_a_judgement_allows(world in world()) {
        let holdings = world.holdings();
        let listed = effective(&person(false), &holdings, Utc::now());
        for wanted in WANTED {
            for resource in asked() {
                let by_list = listed.iter().any(|grant| {
                    let place = match (grant.resource.as_deref(), resource) {
                        (None, _) => true,
                        (Some(_), None) => false,
                        (Some(tied_to), Some(resource)) => kronos_common::identity::resource_matches(tied_to, resource),
                    };
                    place && covers(&grant.permission, wanted)
                });
                prop_assert_eq!(by_list, world.allows(wanted, resource), "{} on {:?}", wanted, resource);
            }
        }
    }

    #[test]
    fn a_dry_run_tells_of_every_question_that_would_be_answered_otherwise(before in world(), after in world()) {
        let difference = difference(&person(false), &before.holdings(), &after.holdings(), Utc::now());
        for wanted in WANTED {
            for resource in asked() {
                match (before.allows(wanted, resource), after.allows(wanted, resource)) {
                    (true, false) => prop_assert!(!difference.loses.is_empty(), "{} on {:?} is lost", wanted, resource),
                    (false, true) => prop_assert!(!difference.gains.is_empty(), "{} on {:?} is gained", wanted, resource),
                    _ => {}
                }
            }
        }
        let same = before.holdings();
        prop_assert!(user_service::rights::difference::difference(&person(false), &same, &same, Utc::now()).loses.is_empty());
    }

    #[test]
    fn what_a_token_says_is_what_holds_everywhere(world in world()) {
        let grants = grants(&person(false), &world.holdings(), Utc::now());
        for wanted in WANTED {
            let by_token = grants.permissions.iter().any(|granted| covers(granted, wanted));
            prop_assert_eq!(by_token, world.allows(wanted, None), "{}", wanted);
            for resource in asked().flatten() {
                let scoped = grants.scoped.iter().any(|grant| {
                    let place = grant.resource.as_deref().is_none_or(|tied_to| kronos_common::identity::resource_matches(tied_to, resource));
                    place && covers(&grant.permission, wanted)
                });
                prop_assert_eq!(by_token || scoped, world.allows(wanted, Some(resource)), "{} on {}", wanted, resource);
            }
        }
    }
}

/// A small generator of our own: the seed is printed when the test fails, and gives the same run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

#[tokio::test]
async fn random_changes_through_the_api_leave_the_rights_that_the_model_has() {
    let seed = u64::from_le_bytes(Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) | 1;
    let mut dice = Dice(seed);
    let fixture = Fixture::new().await;
    let other = fixture.platform.start().await;
    let other = fixture.platform.caller(&other, "root", &["*:*"]);
    let name = |role: usize| format!("r{role}");
    for role in 0..ROLES {
        fixture.role(&name(role), &[], &[]).await;
    }
    let user = fixture.user("camille").await;
    let group = fixture.group("crew").await;
    let mut world = World { roles: vec![(BTreeSet::new(), BTreeSet::new()); ROLES], assignments: Vec::new() };
    let (mut of_group, mut is_member) = (Vec::new(), false);
    let mut epoch = 1;
    for step in 0..120 {
        let role = dice.roll(ROLES);
        let resource = Some(dice.roll(RESOURCES.len() + 1)).filter(|index| *index < RESOURCES.len());
        let assignment = (role, resource, false);
        let tied_to = json!({"resource": resource.map(|index| RESOURCES[index])});
        let answer = match dice.roll(4) {
            0 => {
                let granted = BTreeSet::from([dice.roll(GRANTED.len())]);
                let inherits: BTreeSet<usize> =
                    if role == 0 { BTreeSet::new() } else { BTreeSet::from([dice.roll(role)]) };
                let permissions: Vec<&str> = granted.iter().map(|index| GRANTED[*index]).collect();
                let inherited: Vec<String> = inherits.iter().map(|role| name(*role)).collect();
                let body = json!({"permissions": permissions, "inherits": inherited});
                world.roles[role] = (granted, inherits);
                fixture.admin.put(&format!("/roles/{}", name(role)), &body).await.expect(200)
            }
            1 => {
                is_member = !is_member;
                let path = format!("/groups/{group}/members/{user}");
                if is_member {
                    fixture.admin.put(&path, &json!({})).await.expect(204)
                } else {
                    fixture.admin.delete(&path).await.expect(204)
                }
            }
            2 => {
                let path = format!("/groups/{group}/roles/{}", name(role));
                toggle(&fixture.admin, &path, &tied_to, &mut of_group, assignment).await
            }
            _ => {
                let path = format!("/users/{user}/roles/{}", name(role));
                toggle(&fixture.admin, &path, &tied_to, &mut world.assignments, assignment).await
            }
        };
        let written: i64 = answer.header("kronos-epoch").unwrap().parse().unwrap();
        let now = fixture.epoch(&user).await;
        assert!(now >= epoch, "an epoch never goes back");
        epoch = now;
        let mut effective = world.clone();
        if is_member {
            effective.assignments.extend(of_group.iter().copied());
        }
        let wanted = WANTED[dice.roll(WANTED.len())];
        for resource in asked() {
            let query = resource.map_or(String::new(), |resource| format!("&resource={resource}"));
            let path = format!("/users/{user}/access?permission={wanted}{query}");
            let expected = effective.allows(wanted, resource);
            // Here at once; elsewhere as of the change.
            let here = fixture.admin.get(&path).await.expect(200).json();
            let there = other.get(&format!("{path}&minEpoch={written}")).await.expect(200).json();
            for answer in [here, there] {
                assert_eq!(answer["allowed"], expected, "seed {seed}, step {step}, {wanted} on {resource:?}: {answer}");
            }
        }
    }
}

/// Gives what is not held, takes what is.
async fn toggle(
    admin: &TestClient,
    path: &str,
    body: &Value,
    held: &mut Vec<(usize, Option<usize>, bool)>,
    assignment: (usize, Option<usize>, bool),
) -> kronos_testkit::TestResponse {
    match held.iter().position(|held| *held == assignment) {
        Some(index) => {
            held.remove(index);
            admin.delete(path).json(body).await.expect(204)
        }
        None => {
            held.push(assignment);
            admin.put(path, body).await.expect(200)
        }
    }
}

#[tokio::test]
async fn racing_changes_of_roles_and_assignments_end_in_a_closure_that_fits() {
    let fixture = Fixture::new().await;
    for role in ["a", "b", "c", "d"] {
        fixture.role(role, &[&format!("x:{role}")], &[]).await;
    }
    let user = fixture.user("camille").await;
    let mut requests = Vec::new();
    for round in 0..10 {
        for (role, inherits) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")] {
            let inherits: Vec<&str> = if round % 3 == 0 { vec![] } else { vec![inherits] };
            let body = json!({"permissions": [format!("x:{role}")], "inherits": inherits});
            requests.push(tokio::spawn(fixture.admin.put(&format!("/roles/{role}"), &body).into_future()));
            let given = fixture.admin.put(&format!("/users/{user}/roles/{role}"), &json!({}));
            requests.push(tokio::spawn(given.into_future()));
        }
    }
    for request in requests {
        let answer = request.await.unwrap();
        assert!(answer.status == 200 || answer.code() == "role_cycle", "{answer}");
    }
    let list: Value = fixture.admin.get("/roles").await.expect(200).json();
    let inheritance: Inheritance = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| {
            (role["name"].as_str().unwrap().to_owned(), serde_json::from_value(role["inherits"].clone()).unwrap())
        })
        .collect();
    let pool = fixture.platform.database.pool("kronos_users").await;
    let rows: Vec<(String, String)> =
        sqlx::query_as("select role, includes from role_closure").fetch_all(&pool).await.unwrap();
    let mut stored: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (role, includes) in rows {
        stored.entry(role).or_default().insert(includes);
    }
    for role in inheritance.keys() {
        assert_eq!(stored[role], closure(&inheritance, role).into_keys().collect(), "{role} of {inheritance:?}");
    }
    wait_until("the outbox is empty", async || {
        sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&pool).await.unwrap() == 0
    })
    .await;
}
