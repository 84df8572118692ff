--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: webhooks; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhooks (
    id text NOT NULL,
    address text,
    topic text,
    user_id text,
    created_at timestamp without time zone
);


--
-- Data for Name: webhooks; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.webhooks VALUES ('6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c001', 'http://127.0.0.1:1/6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c001', 'dataset/create', 'b3b1f7e0-4f7f-4c39-8a6a-9a4cf0f2d101', '2015-06-07 08:09:10.123456');
INSERT INTO public.webhooks VALUES ('6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c002', 'http://127.0.0.1:1/6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c002', 'dataset/update', 'b3b1f7e0-4f7f-4c39-8a6a-9a4cf0f2d101', '2015-06-08 08:09:10');
INSERT INTO public.webhooks VALUES ('6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c003', 'http://127.0.0.1:1/6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c003', 'resource/delete', 'b3b1f7e0-4f7f-4c39-8a6a-9a4cf0f2d102', '2015-06-09 08:09:10');
INSERT INTO public.webhooks VALUES ('6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c004', 'http://10.1.2.3/internal', 'dataset/delete', 'b3b1f7e0-4f7f-4c39-8a6a-9a4cf0f2d102', '2015-06-10 08:09:10');
INSERT INTO public.webhooks VALUES ('6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c005', 'http://127.0.0.1:1/6f1c2c8e-6a6e-4a52-9d1c-0f6a53a3c005', 'dataset/create', NULL, NULL);


--
-- Name: webhooks webhooks_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);


--
-- PostgreSQL database dump complete
--


