"""One folder per backend; see `plan` for what runs them."""
