import { Alert, Bullseye, Button, Card, CardBody, CardTitle, Content, Form, FormGroup, Spinner, TextInput } from '@patternfly/react-core';
import { useState } from 'react';

interface Props {
  isBusy: boolean;
  problem: string | undefined;
  onToken: (token: string) => void;
  onRetry: () => void;
}

/** How to come in: by the address that `whimbrel up` or `whimbrel console` prints, or with a token. */
export const LoginPage = ({ isBusy, problem, onToken, onRetry }: Props) => {
  const [token, setToken] = useState('');
  return (
    <Bullseye className="login">
      <main>
        <Card>
          <CardTitle component="h1">Whimbrel</CardTitle>
          <CardBody>
            {isBusy ? (
              <>
                {problem && (
                  <Alert component="h2" isInline variant="warning" title="You are not logged in yet. It is tried again.">
                    {problem}
                  </Alert>
                )}
                <Spinner aria-label="Logging in" />
              </>
            ) : (
              <>
                {problem && (
                  <Alert component="h2" isInline variant="warning" title={problem} actionLinks={<Button variant="link" onClick={onRetry}>Try again</Button>} />
                )}
                <Content component="p">
                  Open the address that <code>whimbrel up</code> has printed. It is good for one login; <code>whimbrel console</code> prints
                  another. On Kubernetes log in with a token of yours: <code>kubectl create token NAME</code> makes one.
                </Content>
                <Form
                  onSubmit={(event) => {
                    event.preventDefault();
                    if (token.trim()) onToken(token.trim());
                  }}
                >
                  <FormGroup label="Or a token, as in a kubeconfig" fieldId="token">
                    <TextInput id="token" type="password" autoComplete="off" value={token} onChange={(_, value) => setToken(value)} />
                  </FormGroup>
                  <Button type="submit" isDisabled={!token.trim()}>
                    Log in
                  </Button>
                </Form>
              </>
            )}
          </CardBody>
        </Card>
      </main>
    </Bullseye>
  );
};
