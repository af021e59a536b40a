// Create, edit and delete rows.

/** Show the form for a new row. Return whether a row was created. */
export async function createRow(facts) {}

/** Show the form for a row. Return the stored row, null if it does not exist any more, undefined if nothing changed. */
export async function editRow(facts, row) {}

/** Ask, and delete a row. Return whether it does not exist any more. */
export async function deleteRow(facts, row) {}
