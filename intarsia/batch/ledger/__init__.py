"""What a batch writes down: records of rows, claims on outputs, reports."""
