"""Excel workbooks: the sheet as a stream of rows."""
