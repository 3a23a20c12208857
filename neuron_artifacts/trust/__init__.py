"""Who vouches for an artifact: signatures, provenance, and the policy that asks for them."""
