//! People, roles, and the first sequence of the seeds: a customer may in, and no longer.

use anyhow::ensure;
use serde_json::json;

use super::{Journey, PATIENCE, eventually};
use crate::api::{Api, text};

impl Journey<'_> {
    pub(super) async fn access(&mut self) -> anyhow::Result<()> {
        self.chapter("People, roles and access");
        self.done("the administrator logs in");

        let wrong = json!({ "username": self.target.admin.username, "password": "not this one" });
        Api::anonymous(self.target)?.post("/auth/login", &wrong).await?.refused(401, "invalid_credentials")?;
        self.done("a wrong password gets a 401 problem, code invalid_credentials");

        let (customer_role, technician_role) = (self.name("customer"), self.name("technician"));
        let rights = json!({ "name": customer_role, "permissions": ["robots:use", "cache:read"], "inherits": [] });
        self.admin.post("/roles", &rights).await?.expect(201)?;
        let rights = json!({ "name": technician_role, "permissions": ["logs:read"], "inherits": [customer_role] });
        self.admin.post("/roles", &rights).await?.expect(201)?;
        let (customer_name, customer_id) = self.create_user("camille", &customer_role).await?;
        let (technician_name, _) = self.create_user("theo", &technician_role).await?;
        self.done("a customer and a technician are created, with roles that say what they may");

        let technician = Api::login(self.target, &technician_name, &self.password()).await?;
        technician.get("/logs?limit=1").await?.expect(200)?;
        self.done("the technician logs in and reads logs, by a right of the role");

        let anonymous = Api::anonymous(self.target)?;
        let login = json!({ "username": customer_name, "password": self.password() });
        let tokens = anonymous.post("/auth/login", &login).await?.expect(200)?;
        let customer = anonymous.with_token(text(&tokens, "accessToken")?);
        let ouranos = Api::client(self.target, "ouranos-crm").await?;
        let question = json!({ "subject": customer_id, "permission": "robots:use" });
        let answer = ouranos.post("/auth/check", &question).await?.expect(200)?;
        ensure!(answer["allowed"] == true, "the customer should be allowed: {answer}");
        self.done(format!("Ouranos CRM asks: may the customer in? Yes: {}", answer["why"]));
        customer.get("/cache/demo/none").await?.refused(404, "not_found")?;
        self.done("the customer's own token opens the cache (404: there is nothing yet)");

        self.admin.delete(&format!("/users/{customer_id}/roles/{customer_role}")).await?.expect(204)?;
        let ((), felt) = eventually("the old token to be refused", PATIENCE, || async {
            let answer = customer.get("/cache/demo/none").await?;
            Ok((answer.status == 401 && answer.json["code"] == "token_revoked").then_some(()))
        })
        .await?;
        let answer = ouranos.post("/auth/check", &question).await?.expect(200)?;
        ensure!(answer["allowed"] == false, "the customer should be refused: {answer}");
        self.done(format!("the role is taken away: Ouranos CRM hears no, the old token is refused after {felt:?}"));

        let refresh = json!({ "refreshToken": text(&tokens, "refreshToken")? });
        let ((), _) = eventually("a token with the new rights", PATIENCE, || async {
            let renewed = anonymous.post("/auth/refresh", &refresh).await?.expect(200)?;
            let customer = anonymous.with_token(text(&renewed, "accessToken")?);
            Ok((customer.get("/cache/demo/none").await?.json["code"] == "permission_denied").then_some(()))
        })
        .await?;
        self.done("a refreshed token carries the new rights only: 403, code permission_denied");
        Ok(())
    }

    async fn create_user(&mut self, who: &str, role: &str) -> anyhow::Result<(String, String)> {
        let username = self.name(who);
        let user = json!({
            "username": username,
            "email": format!("{username}@example.com"),
            "displayName": who,
            "password": self.password(),
        });
        let id = text(&self.admin.post("/users", &user).await?.expect(201)?, "id")?;
        let given = self.admin.put(&format!("/users/{id}/roles/{role}"), &json!({})).await?;
        ensure!(given.status.is_success(), "{}: {} {}", given.call, given.status, given.json);
        Ok((username, id))
    }

    /// The password of this run's people.
    fn password(&self) -> String {
        format!("correct horse {}", self.run)
    }
}
