-- What else is known of a passkey. Beside ES256 and EdDSA, passkeys.algorithm may be -257 (RS256), whose public_key is a
-- SubjectPublicKeyInfo in DER.
alter table passkeys
    -- Whether the key may be copied to its owner's other devices; it never changes.
    add column backup_eligible boolean not null default false,
    -- How the authenticator is reached, as the browser said: usb, nfc, ble, hybrid, internal, …
    add column transports      text[]  not null default '{}';
