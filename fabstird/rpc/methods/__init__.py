"""The methods of the API, a module for each area; `table` joins them."""
