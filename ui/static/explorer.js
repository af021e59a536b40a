import {start} from "./api.js";

start(() => {});
